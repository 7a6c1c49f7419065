/** Texts of the pod's small files, and what must not get into them; names and numbers of signals. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { decodeResolvConf, defaultHostname, encodeHosts, encodeResolvConf } from './files.ts';
import { decodeSignal } from './signals.ts';
import { podConfig } from './testing/doubles.ts';

describe('resolv.conf', () => {
  it('is written and read back', () => {
    const dns = { servers: ['192.0.2.1', '192.0.2.2'], searches: ['a.example', 'b.example'], options: ['ndots:5'] };
    assert.equal(encodeResolvConf(dns), 'search a.example b.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n');
    assert.deepEqual(decodeResolvConf(encodeResolvConf(dns)), dns);
  });

  it('reads the host’s own with comments, domain and unknown lines', () => {
    assert.deepEqual(decodeResolvConf('# c\ndomain one.example\nsortlist 1\nnameserver 192.0.2.1 ; x\n'), { servers: ['192.0.2.1'], searches: ['one.example'], options: [] });
  });

  it('takes no line breaks or second words', () => {
    assert.throws(() => encodeResolvConf({ servers: ['192.0.2.1\nnameserver 203.0.113.9'], searches: [], options: [] }), {
      code: 'invalidArgument',
      message: /^dnsConfig\.servers\[0\]: .* is not a single word$/,
    });
  });
});

describe('hosts', () => {
  it('names the pod and its aliases', () => {
    const text = encodeHosts(podConfig({ hostAliases: [{ ip: '192.0.2.7', hostnames: ['a', 'b'] }] }), 'web', '10.88.0.2', undefined);
    assert.match(text, /^127\.0\.0\.1\tlocalhost\n/);
    assert.match(text, /\n10\.88\.0\.2\tweb\n192\.0\.2\.7\ta\tb\n$/);
  });

  it('begins with the host’s file where the network is the host’s', () => {
    assert.equal(encodeHosts(podConfig(), 'node', undefined, '127.0.0.1 here'), '127.0.0.1 here\n');
  });

  it('takes no aliases that are more than one word', () => {
    assert.throws(() => encodeHosts(podConfig({ hostAliases: [{ ip: '192.0.2.7', hostnames: ['a\n10.0.0.1 evil'] }] }), 'web', undefined, undefined), {
      code: 'invalidArgument',
      message: /^hostAliases\[0\]\.hostnames\[0\]/,
    });
  });
});

describe('signals', () => {
  it('are known by name and number', () => {
    assert.deepEqual(['SIGTERM', 'term', '15', 'SIGRTMIN+3', 'RTMAX-1', '64'].map(decodeSignal), [15, 15, 15, 37, 63, 64]);
  });

  it('are refused when they are none', () => {
    for (const text of ['', '0', '65', 'SIGNOPE', 'RTMIN+99', '-1', '9x'])
      assert.throws(() => decodeSignal(text), { code: 'invalidArgument', message: `signal ${JSON.stringify(text)}: unknown` });
  });
});

describe('the hostname of a pod that names none', () => {
  it('is its name, cut to what the kernel takes', () => {
    assert.equal(defaultHostname('web'), 'web');
    assert.equal(defaultHostname(`${'a'.repeat(62)}-b`), 'a'.repeat(62));
    assert.equal(defaultHostname('b'.repeat(253)), 'b'.repeat(63));
  });
});
