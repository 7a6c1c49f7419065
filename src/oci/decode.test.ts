/** Decoding helpers: paths in messages, prototype keys, 64-bit numbers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { arrayOf, decodeAbsolutePath, decodeInt64, decodeString, decodeUint32, decodeUint64, fieldsOf, mapOf, oneOf, parseJson, pathOf } from './decode.ts';

const fails = (run: () => unknown, message: string): void => {
  assert.throws(run, { name: 'RuntimeError', code: 'invalidArgument', message });
};

test('names the place of a wrong value in the document', () => {
  fails(() => arrayOf(mapOf(decodeUint32))([{ 'a.b/c': 'x' }], 'list'), 'list[0]["a.b/c"]: must be a number, not string');
  fails(() => fieldsOf({}, 'process').required('cwd', decodeString), 'process.cwd: required');
  fails(() => fieldsOf({ cwd: null }, 'process').required('cwd', decodeString), 'process.cwd: required');
  fails(() => fieldsOf([], 'linux'), 'linux: must be an object, not array');
  assert.equal(pathOf('', 'x'), 'x');
});

test('takes null for absent', () => {
  assert.equal(fieldsOf({ a: null }, '').optional('a', decodeString), undefined);
  assert.deepEqual(fieldsOf({ a: null }, '').withDefault('a', arrayOf(decodeString), []), []);
});

test('treats prototype names as ordinary keys', () => {
  const value = parseJson('{"__proto__": {"polluted": "yes"}, "constructor": "c"}', 'document');
  const map = mapOf((item) => item)(value, '');
  assert.equal(Object.getPrototypeOf(map), null);
  assert.deepEqual(Object.keys(map), ['__proto__', 'constructor']);
  assert.equal(({} as { polluted?: string }).polluted, undefined);
  assert.equal(fieldsOf(parseJson('{}', 'document'), '').optional('constructor', decodeString), undefined);
});

test('quotes nothing of a broken document that could steer a terminal', () => {
  assert.throws(() => parseJson('\u001b[2Jhello\r\n', 'document'), { code: 'invalidArgument', message: /^document: not JSON: [\x20-\x7e]*\?\[2Jhello[\x20-\x7e]*$/ });
});

test('keeps every digit of 64-bit numbers', () => {
  assert.deepEqual(arrayOf(decodeUint64)(parseJson('[18446744073709551615, 9007199254740993, 7]', 'document'), ''), [18446744073709551615n, 9007199254740993n, 7n]);
  assert.equal(decodeInt64(parseJson('-9223372036854775808', 'document'), ''), -9223372036854775808n);
  fails(() => decodeUint64(-1, 'limit'), 'limit: -1 is outside 0 to 18446744073709551615');
  fails(() => decodeInt64(1.5, 'limit'), 'limit: must be an integer, not 1.5');
});

test('refuses ids beyond 32 bits', () => {
  assert.equal(decodeUint32(4294967295, 'uid'), 4294967295);
  fails(() => decodeUint32(4294967296, 'uid'), 'uid: 4294967296 is outside 0 to 4294967295');
  fails(() => decodeUint32(-1, 'uid'), 'uid: -1 is outside 0 to 4294967295');
  fails(() => decodeUint32(18446744073709551616n, 'uid'), 'uid: 18446744073709551616 is outside 0 to 4294967295');
});

test('normalises absolute paths and refuses what leaves them', () => {
  assert.equal(decodeAbsolutePath('//a/./b/', 'p'), '/a/b');
  assert.equal(decodeAbsolutePath('/', 'p'), '/');
  fails(() => decodeAbsolutePath('a', 'p'), 'p: must be an absolute path, not "a"');
  fails(() => decodeAbsolutePath('/a/../b', 'p'), 'p: must not contain "..", found "/a/../b"');
  fails(() => decodeString('a\0b', 'p'), 'p: contains a NUL byte');
});

test('lists the words that are known', () => {
  fails(() => oneOf('colour', ['red', 'green'])('blue', 'c'), 'c: unknown colour "blue" (red, green)');
});

test('says where JSON is malformed, also where it is nested too deeply', () => {
  assert.throws(() => parseJson('{"a": }', 'config.json'), { code: 'invalidArgument', message: /^config\.json: not JSON: / });
  assert.throws(() => parseJson('['.repeat(1_000_000) + ']'.repeat(1_000_000), 'config.json'), { code: 'invalidArgument', message: /^config\.json: not JSON: / });
});
