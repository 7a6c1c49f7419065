/** Users and groups from hostile passwd and group files. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type IdentityFiles, type UserRequest, resolveIdentity } from './identity.ts';

const files = (passwd: string, group = ''): IdentityFiles => ({ passwd: Buffer.from(passwd), group: Buffer.from(group) });
const image = files(
  'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/srv/web:/bin/sh\n1234:x:0:0::/evil:/bin/sh\n',
  'root:x:0:\nweb:x:1001:\nextra:x:2002:other,web\nmore:x:50:web\n5:x:0:web\n',
);
const ask = (request: Partial<UserRequest>, from: IdentityFiles = image): ReturnType<typeof resolveIdentity> =>
  resolveIdentity({ supplementalGroups: [], policy: 'Merge', ...request }, from);

test('a name gives uid, primary group, listed groups and home', () => {
  assert.deepEqual(ask({ username: 'web' }), { uid: 1000, gid: 1001, groups: [0, 50, 1001, 2002], home: '/srv/web' });
  assert.deepEqual(ask({ username: 'web', policy: 'Strict', supplementalGroups: [7, 7, 3] }), { uid: 1000, gid: 1001, groups: [3, 7, 1001], home: '/srv/web' });
  assert.deepEqual(ask({}), { uid: 0, gid: 0, groups: [0], home: '/root' });
});

test('a number is never a name', () => {
  assert.deepEqual(ask({ username: '1234' }), { uid: 1234, gid: 0, groups: [0], home: '/' });
  assert.deepEqual(ask({ uid: 1000 }), { uid: 1000, gid: 1001, groups: [0, 50, 1001, 2002], home: '/srv/web' });
  assert.equal(ask({ uid: 1000, groupname: '5' }).gid, 5);
  assert.equal(ask({ username: 'web', groupname: 'extra' }).gid, 2002);
});

test('refuses unknown names and ids beyond 32 bits', () => {
  assert.throws(() => ask({ username: 'x' }), { code: 'invalidArgument', message: 'user "x": not in /etc/passwd of the image' });
  assert.throws(() => ask({ uid: 1, groupname: 'nobody' }), { code: 'invalidArgument', message: 'group "nobody": not in /etc/group of the image' });
  for (const username of ['4294967295', '4294967296', '99999999999999999999', '-1', '+0', '-0'])
    assert.throws(() => ask({ username }), { code: 'invalidArgument', message: `user "${username}": must be 0 to 4294967294` });
  assert.throws(() => ask({ uid: 1, groupname: '-1' }), { code: 'invalidArgument', message: 'group "-1": must be 0 to 4294967294' });
  assert.throws(() => ask({ supplementalGroups: [-1] }), { code: 'invalidArgument', message: 'group "-1": must be 0 to 4294967294' });
});

test('passes malformed lines over', () => {
  const broken = files('web:x:0x0:0::/:\nweb:x:4294967296:0::/:\nweb::-1:0\n:x:0:0\nweb\0:x:0:0::/:\nweb:x:42:43::relative:/bin/sh\nweb:x:0:0::/:\n');
  assert.deepEqual(ask({ username: 'web' }, broken), { uid: 42, gid: 43, groups: [43], home: '/' });
});

test('bounds size and lines', () => {
  assert.throws(() => ask({ username: 'web' }, { passwd: new Uint8Array(1024 * 1024 + 1) }), {
    code: 'resourceExhausted',
    message: 'read /etc/passwd of the image: 1048577 bytes, at most 1048576',
  });
  assert.throws(() => ask({ username: 'web' }, files('\n'.repeat(20_001))), { code: 'resourceExhausted', message: 'read /etc/passwd of the image: 20002 lines, at most 20000' });
});

test('an image without files knows numbers only', () => {
  assert.deepEqual(ask({ uid: 7, gid: 8 }, {}), { uid: 7, gid: 8, groups: [8], home: '/' });
  assert.throws(() => ask({ username: 'root' }, {}), { message: 'user "root": not in /etc/passwd of the image' });
});
