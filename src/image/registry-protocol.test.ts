/** The registry protocol as data. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeChallenge, decodeRegistryErrors, decodeToken, describeStatus, registryEndpoint } from './registry-protocol.ts';

test('only loopback registries are reached by plain http', () => {
  assert.equal(registryEndpoint('127.0.0.1:5000').href, 'http://127.0.0.1:5000/');
  assert.equal(registryEndpoint('localhost').href, 'http://localhost/');
  assert.equal(registryEndpoint('[::1]:5000').href, 'http://[::1]:5000/');
  assert.equal(registryEndpoint('docker.io').href, 'https://registry-1.docker.io/');
  for (const host of ['10.0.0.1:5000', 'localhost.example.com', '127.0.0.1.example.com', '1270.0.0.1.nip.io']) assert.equal(registryEndpoint(host).protocol, 'https:', host);
});

test('challenges are understood, the bearer one first', () => {
  assert.deepEqual(decodeChallenge('Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"'), {
    kind: 'bearer',
    realm: 'https://auth.example/token',
    service: 'reg',
    scope: 'repository:a/b:pull,push',
  });
  assert.deepEqual(decodeChallenge('Basic realm="x", Bearer realm="https://t"'), { kind: 'bearer', realm: 'https://t', service: undefined, scope: undefined });
  assert.deepEqual(decodeChallenge('basic realm="x"'), { kind: 'basic' });
  assert.equal(decodeChallenge('Negotiate'), undefined);
  assert.equal(decodeChallenge(''), undefined);
});

test('a token is one printable word, so that a server cannot write our headers', () => {
  assert.equal(decodeToken(Buffer.from('{"access_token":"abc.def"}'), 'get a token'), 'abc.def');
  for (const body of ['{"token":"a\\r\\nx: y"}', '{}', '{"token":""}'])
    assert.throws(() => decodeToken(Buffer.from(body), 'get a token'), { code: 'unauthenticated', message: 'get a token: no token in the answer' });
});

test('failures carry the words of the registry on one line, or the status', () => {
  assert.equal(decodeRegistryErrors(Buffer.from('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"Manifest\\nunknown"}]}')), 'manifest unknown');
  assert.equal(decodeRegistryErrors(Buffer.from('{"errors":[{"code":"DENIED"}]}')), 'denied');
  assert.equal(describeStatus(502, Buffer.from('<html>')), 'the registry answered 502');
});
