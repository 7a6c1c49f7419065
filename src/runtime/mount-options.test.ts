/** Mount options: every documented word, and what contradicts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mountAttr, ms } from '#plan';
import { decodeMountOptions } from './mount-options.ts';

const decode = (...options: readonly string[]): ReturnType<typeof decodeMountOptions> => decodeMountOptions(options);

test('words set and clear attributes of the mount, the last one wins', () => {
  assert.deepEqual(
    decode('ro', 'nosuid', 'nodev', 'noexec', 'nosymfollow', 'nodiratime').set,
    mountAttr.readOnly | mountAttr.noSuid | mountAttr.noDev | mountAttr.noExec | mountAttr.noSymFollow | mountAttr.noDirAtime,
  );
  const rewritten = decode('ro', 'rw', 'suid', 'nosuid');
  assert.deepEqual([rewritten.set, rewritten.clear], [mountAttr.noSuid, mountAttr.readOnly]);
  for (const word of ['atime', 'relatime', 'norelatime', 'nostrictatime']) assert.deepEqual([decode(word).set, decode(word).clear], [0, mountAttr.atimeMask], word);
  assert.deepEqual([decode('noatime').set, decode('strictatime').set], [mountAttr.noAtime, mountAttr.strictAtime]);
  assert.equal(decode('noatime').clear & mountAttr.atimeMask, mountAttr.atimeMask);
});

test('words with r reach what is mounted below', () => {
  const options = decode('rbind', 'rro', 'rnosuid', 'rsuid', 'rnoatime', 'rnodev', 'rnoexec');
  assert.equal(options.setRecursive, mountAttr.readOnly | mountAttr.noDev | mountAttr.noExec | mountAttr.noAtime);
  assert.equal(options.clearRecursive & mountAttr.noSuid, mountAttr.noSuid);
  assert.deepEqual([options.bind, options.recursive, options.set], [true, true, 0]);
});

test('relatime and rw are no recursive words', () => {
  assert.deepEqual([decode('relatime').setRecursive, decode('relatime').clearRecursive, decode('rw').clearRecursive], [0, 0, 0]);
});

test('propagation words', () => {
  const table = { private: ms.private, slave: ms.slave, shared: ms.shared, unbindable: ms.unbindable };
  for (const [word, flag] of Object.entries(table)) {
    assert.deepEqual([decode(word).propagation, decode(word).propagationRecursive], [flag, false]);
    assert.deepEqual([decode(`r${word}`).propagation, decode(`r${word}`).propagationRecursive], [flag, true]);
  }
});

test('what is left goes to the file system, what only fstab reads is dropped', () => {
  const options = decode('defaults', 'size=64k', 'mode=755', 'tmpcopyup', 'sync', 'constructor');
  assert.deepEqual([options.data, options.superblock, options.copyUp], [['size=64k', 'mode=755', 'constructor'], ['sync'], true]);
  assert.deepEqual([decode('sync', 'lazytime', 'async', 'silent', 'mand').superblock, decode('sync', 'async').data], [['lazytime'], []]);
});

test('mapping of ids, of one mount or of a tree', () => {
  assert.deepEqual([decode('bind').idMap, decode('bind', 'idmap').idMap, decode('idmap', 'ridmap').idMap], [undefined, 'mount', 'tree']);
});

test('a remount is told apart', () => {
  assert.deepEqual([decode('ro', 'remount').remount, decode('ro').remount], [true, false]);
});
