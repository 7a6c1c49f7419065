/**
 * The interpreter's netlink step against the kernel, in network namespaces that end with the test: acknowledgements, extended
 * ones, descriptors of slots in messages, netfilter batches.
 */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { clone } from '#plan';
import { type Outcome, failed, host, payload, pod, removeScratch, runPlan, skip } from './native-driver.ts';

const [EEXIST, EINVAL, EOPNOTSUPP, ETIMEDOUT] = [17, 22, 95, 110] as const;

after(removeScratch);

/** Netlink messages by hand: enough of rtnetlink to make a bridge and a veth pair. */
function attribute(type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16LE(4 + data.length, 0);
  header.writeUInt16LE(type, 2);
  return Buffer.concat([header, data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
}
const name = (text: string): Buffer => attribute(3, Buffer.from(`${text}\0`));
const u32 = (value: number): Buffer => {
  const data = Buffer.alloc(4);
  data.writeUInt32LE(value);
  return data;
};
function message(type: number, flags: number, body: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags | 1 | 4, 6);
  return Buffer.concat([header, body]);
}
const link = (...attributes: Buffer[]): Buffer => message(16, 0x600, Buffer.concat([Buffer.alloc(16), ...attributes]));
const kindOf = (kind: string, data: Buffer = Buffer.alloc(0)): Buffer =>
  attribute(18, Buffer.concat([attribute(1, Buffer.from(kind)), ...(data.length === 0 ? [] : [attribute(2, data)])]));

describe('netlink', { skip }, () => {
  it('makes a bridge and a veth pair whose peer is born in another network namespace', () => {
    const bridge = link(name('br-test'), kindOf('bridge'));
    const peer = Buffer.concat([Buffer.alloc(16), name('eth0'), attribute(28, u32(0))]);
    const veth = link(name('veth-test'), kindOf('veth', attribute(1, peer)));
    const messages = Buffer.concat([bridge, veth]);
    const offset = bridge.length + veth.indexOf(attribute(28, u32(0))) + 4;
    const outcome = runPlan({
      sections: [
        pod({ kind: 'unshare', flags: clone.newNet }, { kind: 'openNamespace', type: clone.newNet, out: 80 }, { kind: 'exportSlot', slot: 80, podSlot: 3 }),
        host({ kind: 'netlink', protocol: 0, messages, slotPatches: [offset, 3] }),
        payload({ kind: 'execute', file: '/bin/busybox', argv: ['busybox', 'cat', '/proc/net/dev'], env: [] }),
      ],
    });
    assert.match(outcome.output, /br-test:[^]*veth-test:/);
    assert.doesNotMatch(outcome.output, /eth0:/);
  });

  it('reports the first error of a batch with the extended acknowledgement', () => {
    const twice = Buffer.concat([link(name('br-test'), kindOf('bridge')), link(name('br-test'), kindOf('bridge'))]);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: twice, slotPatches: [] })] })).errno, EEXIST);
    const unknown = failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: link(name('x'), kindOf('no-such-kind')), slotPatches: [] })] }));
    assert.deepEqual([unknown.errno, unknown.detail], [EOPNOTSUPP, 'Unknown device type']);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: twice.subarray(0, 20), slotPatches: [] })] })).errno, EINVAL);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: twice, slotPatches: [twice.length - 3, 0] })] })).errno, EINVAL);
  });

  it('reads the acknowledgements of a netfilter batch, also of one that fails', () => {
    const batch = (type: number): Buffer => {
      const bytes = message(type, 0, Buffer.from([0, 0, 0, 10]));
      bytes.writeUInt16LE(1, 6);
      return bytes;
    };
    const table = (family: number): Buffer => message(0x0a00, 0x400, Buffer.concat([Buffer.from([family, 0, 0, 0]), attribute(1, Buffer.from('berth\0'))]));
    const send = (...messages: Buffer[]): Outcome =>
      runPlan({ sections: [host({ kind: 'netlink', protocol: 12, messages: Buffer.concat([batch(16), ...messages, batch(17)]), slotPatches: [] })] });
    assert.doesNotMatch(send(table(2), table(10)).output, /failed/);
    assert.notEqual(failed(send(table(2), table(77))).errno, ETIMEDOUT, 'an error, not a time-out');
  });
});
