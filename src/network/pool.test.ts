/** Addresses and the pool, with time and links given by hand. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError, limits } from '#core';
import { formatIpv4, parseIpv4, parseSubnet } from './address.ts';
import { AddressPool, type PoolView } from './pool.ts';

const view = (nowMs: number, ...links: string[]): PoolView => ({ nowMs, hasLink: (name) => links.includes(name) });
const poolOf = (text: string): AddressPool => new AddressPool(parseSubnet('subnet', text));

test('a pool gives addresses in turn after the gateway, and says when it is full', () => {
  const pool = poolOf('192.168.7.8/29');
  assert.equal(pool.gateway, '192.168.7.9');
  assert.equal(pool.size, 5);
  const taken = Array.from({ length: 6 }, () => pool.take(view(0))).map((result) => (result.kind === 'taken' ? result.address : result.kind));
  assert.deepEqual(taken, ['192.168.7.10', '192.168.7.11', '192.168.7.12', '192.168.7.13', '192.168.7.14', 'full']);
});

test('a /16 has 65533 addresses for pods', () => assert.equal(poolOf('10.88.0.0/16').size, 65_533));

test('a released address is used again last, after its rest, and only once its link is gone', () => {
  const pool = poolOf('192.168.7.0/30');
  assert.deepEqual(pool.take(view(0)), { kind: 'taken', address: '192.168.7.2' });
  pool.release('192.168.7.2', { hostInterface: 'vetha', releasedAtMs: 1_000 });
  assert.deepEqual(pool.take(view(1_000 + limits.addressRestMs - 1)), { kind: 'resting' });
  assert.deepEqual(pool.take(view(9_000, 'vetha')), { kind: 'resting' });
  assert.deepEqual(pool.take(view(9_000)), { kind: 'taken', address: '192.168.7.2' });
  assert.equal(pool.restingCount, 0);
});

test('a clock that was set back does not keep an address resting', () => {
  const pool = poolOf('192.168.7.0/30');
  pool.release('192.168.7.2', { hostInterface: 'vetha', releasedAtMs: 1_000_000 });
  assert.equal(pool.take(view(5)).kind, 'taken');
});

test('a fresh address is preferred to a rested one', () => {
  const pool = poolOf('192.168.7.0/29');
  pool.take(view(0));
  pool.release('192.168.7.2', { hostInterface: 'vetha', releasedAtMs: 0 });
  assert.deepEqual(pool.take(view(9_000)), { kind: 'taken', address: '192.168.7.3' });
});

test('waking forgets the oldest rested addresses, no more than asked for', () => {
  const pool = poolOf('192.168.7.0/28');
  for (let last = 2; last < 7; last += 1) pool.release(`192.168.7.${last}`, { hostInterface: `veth${last}`, releasedAtMs: last });
  assert.deepEqual(pool.wake(view(1_000, 'veth5'), 2), ['192.168.7.2', '192.168.7.3']);
  assert.deepEqual(pool.wake(view(1_000, 'veth5'), 9), ['192.168.7.4']);
  assert.equal(pool.restingCount, 2);
});

test('the network, the gateway, broadcast and strangers are no pod addresses', () => {
  const pool = poolOf('192.168.7.0/24');
  assert.deepEqual(
    ['192.168.7.0', '192.168.7.1', '192.168.7.255', '192.168.8.2', 'x'].map((address) => pool.offsetOf(address)),
    [undefined, undefined, undefined, undefined, undefined],
  );
  assert.equal(pool.offsetOf('192.168.7.2'), 2);
});

test('addresses are dotted quads without leading zeros', () => {
  assert.equal(formatIpv4(parseIpv4('255.254.1.0') ?? 0), '255.254.1.0');
  for (const text of ['256.1.1.1', '1.2.3', '01.2.3.4', '1.2.3.4.5', ' 1.2.3.4', '']) assert.equal(parseIpv4(text), undefined, text);
});

for (const [text, cause] of [
  ['10.88.0.0', '"10.88.0.0" is not an IPv4 network such as 10.88.0.0/16'],
  ['10.88.0.0/16/1', '"10.88.0.0/16/1" is not an IPv4 network such as 10.88.0.0/16'],
  ['fd00::/64', '"fd00::/64" is not an IPv4 network such as 10.88.0.0/16'],
  ['10.88.0.1/16', '10.88.0.1/16 has host bits set, the network is 10.88.0.0/16'],
  ['10.0.0.0/8', 'prefix length 8 is not between 12 and 30'],
  ['10.88.0.0/31', 'prefix length 31 is not between 12 and 30'],
  ['127.16.0.0/16', '127.16.0.0/16 is not a network of unicast addresses'],
  ['224.0.0.0/16', '224.0.0.0/16 is not a network of unicast addresses'],
] as const) {
  test(`the subnet ${text} is refused`, () => {
    assert.throws(
      () => parseSubnet('network.subnet', text),
      (error: unknown) => error instanceof RuntimeError && error.code === 'invalidArgument' && error.message === `network.subnet: ${cause}`,
    );
  });
}
