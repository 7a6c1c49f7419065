/** Values, errors and calls of the engine socket: nothing is lost, and what is malformed is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { decodeCall, encodeCall, methods } from './methods.ts';
import { decodeError, decodeValue, encodeError, encodeValue } from './values.ts';

test('every kind of value crosses without loss', () => {
  const value = {
    big: 2n ** 63n,
    negative: -1n,
    bytes: new Uint8Array([0, 255, 128]),
    list: [1.5, 'text', null, undefined, true, [], {}],
    labels: { constructor: 'x', 'io.kubernetes.pod.name': 'ä\u0000' },
    infinite: Infinity,
    $berth: 'a key of the user',
    nested: { $berth: 'bigint', value: 'not a number' },
  };
  assert.deepEqual(decodeValue(encodeValue(value)), value);
  assert.equal(decodeValue(encodeValue(undefined)), undefined);
});

test('an undefined property is left out, as Engine types treat it as absent', () => {
  assert.deepEqual(decodeValue(encodeValue({ a: undefined, b: 1 })), { b: 1 });
});

test('a key named __proto__ stays a key and changes no prototype', () => {
  const decoded = decodeValue('{"__proto__": {"polluted": true}}');
  assert.ok(typeof decoded === 'object' && decoded !== null);
  assert.equal(Object.getPrototypeOf(decoded), Object.prototype);
  assert.deepEqual(Object.keys(decoded), ['__proto__']);
  assert.equal(decodeValue(encodeValue({ a: decoded })) !== undefined && 'polluted' in {}, false);
});

test('what has no form is a bug of the caller, not silently null', () => {
  assert.throws(() => encodeValue({ callback: () => undefined }), { code: 'internal', message: 'encode engine value: what is of type function cannot cross the engine socket' });
  assert.throws(() => encodeValue(new Map()), { code: 'internal', message: 'encode engine value: what is of type object cannot cross the engine socket' });
});

test('malformed text is refused', () => {
  assert.throws(() => decodeValue('{'), { code: 'invalidArgument' });
  assert.throws(() => decodeValue('{"$berth":"bigint","value":"1e9"}'), { code: 'invalidArgument', message: 'decode engine value: bad tag "bigint"' });
  assert.throws(() => decodeValue(`${'['.repeat(100)}${']'.repeat(100)}`), { code: 'invalidArgument', message: 'decode engine value: nested deeper than 64' });
});

test('an error keeps code, message, errno and the messages of failed clean-up', () => {
  const cleanup = new RuntimeError('failedPrecondition', 'release address: busy', { errno: 'EBUSY' });
  const error = new RuntimeError('resourceExhausted', 'create container: no space', { errno: 'ENOSPC', cleanupFailures: [cleanup], cause: new Error('x') });
  const decoded = decodeError(encodeError(error));
  assert.ok(decoded instanceof RuntimeError);
  assert.deepEqual([decoded.code, decoded.message, decoded.errno], ['resourceExhausted', 'create container: no space', 'ENOSPC']);
  const failures = decoded.cleanupFailures.map((failure) => failure instanceof RuntimeError && [failure.code, failure.message, failure.errno]);
  assert.deepEqual(failures, [['failedPrecondition', 'release address: busy', 'EBUSY']]);
});

test('an error of unknown code becomes unknown', () => {
  assert.deepEqual(decodeError('{"code":"constructor","message":"m"}').code, 'unknown');
  assert.deepEqual(decodeError('3').code, 'internal');
});

test('calls round-trip; other protocols, unknown methods and too many arguments are told apart', () => {
  const call = { kind: 'method', method: 'stopContainer', args: ['abc', { timeoutMs: 5 }] } as const;
  assert.deepEqual(decodeCall(encodeCall(call)), call);
  assert.deepEqual(decodeCall(encodeCall({ kind: 'handshake' })), { kind: 'handshake' });
  assert.throws(() => decodeCall('{"protocol":99,"method":"status","args":"[]"}'), {
    code: 'failedPrecondition',
    message: 'call engine: it speaks protocol 3, the client 99; use the same version of berth for both',
  });
  assert.throws(() => decodeCall('{"protocol":3,"method":"constructor","args":"[]"}'), { code: 'unimplemented', message: 'call engine: no method "constructor"' });
  assert.throws(() => decodeCall('{"protocol":3,"method":"status","args":"[1]"}'), { code: 'invalidArgument', message: 'decode engine call status: at most 0 arguments expected' });
  assert.throws(() => decodeCall('[]'), { code: 'failedPrecondition' });
});

test('a signal never counts among the arguments that cross', () => {
  for (const [name, shape] of Object.entries(methods)) {
    if (shape.signalAt !== undefined) assert.equal(shape.signalAt, shape.argsMax, name);
  }
});
