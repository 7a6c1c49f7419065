/** The registry protocol as data. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  acceptRange,
  decodeChallenge,
  decodeContentRange,
  decodeRegistryErrors,
  decodeRetryAfter,
  decodeToken,
  describeStatus,
  isTransientStatus,
  mergeScopes,
  nextLink,
  registryEndpoint,
  resolveLocation,
  tokenServerOf,
} from './protocol.ts';

test('only loopback registries are reached by plain http', () => {
  assert.equal(registryEndpoint('127.0.0.1:5000').href, 'http://127.0.0.1:5000/');
  assert.equal(registryEndpoint('localhost').href, 'http://localhost/');
  assert.equal(registryEndpoint('[::1]:5000').href, 'http://[::1]:5000/');
  assert.equal(registryEndpoint('docker.io').href, 'https://registry-1.docker.io/');
  for (const host of ['10.0.0.1:5000', 'localhost.example.com', '127.0.0.1.example.com', '1270.0.0.1.nip.io']) assert.equal(registryEndpoint(host).protocol, 'https:', host);
});

test('challenges are understood, the bearer one first, each with its own words', () => {
  assert.deepEqual(decodeChallenge('Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"'), {
    kind: 'bearer',
    realm: 'https://auth.example/token',
    service: 'reg',
    scope: 'repository:a/b:pull,push',
  });
  assert.deepEqual(decodeChallenge('Basic realm="x", Bearer realm="https://t"'), { kind: 'bearer', realm: 'https://t', service: undefined, scope: undefined });
  assert.deepEqual(decodeChallenge('Bearer realm="https://t", Basic realm="x"'), { kind: 'bearer', realm: 'https://t', service: undefined, scope: undefined });
  assert.deepEqual(decodeChallenge('basic realm="x"'), { kind: 'basic' });
  assert.equal(decodeChallenge('Negotiate'), undefined);
  assert.equal(decodeChallenge(''), undefined);
});

test('a token is one printable word, so that a server cannot write our headers, and lives a minute where nothing is said', () => {
  assert.deepEqual(decodeToken(Buffer.from('{"access_token":"abc.def"}'), 'get a token'), { token: 'abc.def', lifetimeMs: 60_000 });
  assert.equal(decodeToken(Buffer.from('{"token":"a","expires_in":300}'), 'get a token').lifetimeMs, 300_000);
  assert.equal(decodeToken(Buffer.from('{"token":"a","expires_in":-5}'), 'get a token').lifetimeMs, 1_000);
  for (const body of ['{"token":"a\\r\\nx: y"}', '{}', '{"token":""}'])
    assert.throws(() => decodeToken(Buffer.from(body), 'get a token'), { code: 'unauthenticated', message: 'get a token: no token in the answer' });
});

test('credentials go to a token server by https, or in plain only to a neighbour of a plain registry', () => {
  const reach = (realm: string, base: string): string => tokenServerOf(realm, new URL(base)).href;
  assert.equal(reach('https://evil:name@auth.example/token', 'https://reg.example/v2/'), 'https://auth.example/token');
  assert.equal(reach('http://127.0.0.1:6000/token', 'http://127.0.0.1:5000/v2/'), 'http://127.0.0.1:6000/token');
  assert.equal(reach('http://reg.lan:6000/token', 'http://reg.lan/v2/'), 'http://reg.lan:6000/token');
  for (const [realm, base] of [
    ['http://auth.example/token', 'https://auth.example/v2/'],
    ['http://127.0.0.1/token', 'http://reg.lan/v2/'],
    ['http://other.lan/token', 'http://reg.lan/v2/'],
    ['ftp://reg.lan/token', 'http://reg.lan/v2/'],
    ['/token', 'https://reg.example/v2/'],
  ] as const)
    assert.throws(() => reach(realm, base), { code: 'unauthenticated', message: 'the registry names a token server that is not reached by https' }, realm);
});

test('scopes of one resource are merged, and what is needed comes first', () => {
  assert.deepEqual(mergeScopes(['repository:a/b:pull,push'], 'repository:a/b:pull repository:c:pull'), ['repository:a/b:pull,push', 'repository:c:pull']);
  assert.deepEqual(mergeScopes(['repository:a:pull'], undefined), ['repository:a:pull']);
  assert.deepEqual(mergeScopes(['repository:a:pull'], '  nonsense '), ['repository:a:pull']);
});

test('failures carry the words of the registry on one line, or the status', () => {
  assert.equal(decodeRegistryErrors(Buffer.from('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"Manifest\\nunknown"}]}')), 'manifest unknown');
  assert.equal(decodeRegistryErrors(Buffer.from('{"errors":[{"code":"DENIED"}]}')), 'denied');
  assert.equal(describeStatus(502, Buffer.from('<html>')), 'the registry answered 502');
  assert.deepEqual([408, 429, 500, 503, 501, 400, 404, 200].map(isTransientStatus), [true, true, true, true, false, false, false, false]);
});

test('Retry-After is seconds or a date, and nothing else', () => {
  const nowMs = Date.UTC(2024, 0, 2, 3, 4, 5);
  assert.equal(decodeRetryAfter('120', nowMs), 120_000);
  assert.equal(decodeRetryAfter('Tue, 02 Jan 2024 03:04:35 GMT', nowMs), 30_000);
  assert.equal(decodeRetryAfter('Tue, 02 Jan 2024 03:04:00 GMT', nowMs), 0);
  for (const header of [undefined, '', '-1', '1.5', 'soon', '2024-01-02', '9999999999999', 'Mon, 99 Foo 2024 03:04:35 GMT'])
    assert.equal(decodeRetryAfter(header, nowMs), undefined, String(header));
});

test('a content range is read as it is written', () => {
  assert.deepEqual(decodeContentRange('bytes 0-0/1'), { from: 0, end: 1, total: 1 });
  assert.deepEqual(decodeContentRange('bytes 5-9/*'), { from: 5, end: 10, total: undefined });
  for (const header of [undefined, 'bytes */10', 'bytes 9-5/10', 'bytes 0-10/10', 'items 0-1/2', 'bytes 0-1', `bytes 0-${'9'.repeat(20)}/*`])
    assert.equal(decodeContentRange(header), undefined, String(header));
});

test('an answer may have less than was asked for, never anything else', () => {
  const asked = { from: 10, end: 20, total: 30 };
  assert.equal(acceptRange(asked, { range: 'bytes 10-19/30', length: '10' }), 20);
  assert.equal(acceptRange(asked, { range: 'bytes 10-14/*', length: undefined }), 15);
  for (const [range, length, message] of [
    [undefined, '10', 'the registry answers a part without saying which one'],
    ['bytes 0-9/30', '10', 'the registry answers bytes 0 to 10 where 10 to 20 were asked for'],
    ['bytes 10-20/30', '11', 'the registry answers bytes 10 to 21 where 10 to 20 were asked for'],
    ['bytes 10-19/31', '10', 'the registry has 31 bytes, 30 were announced'],
    ['bytes 10-19/30', '9', 'the registry sends 9 bytes as bytes 10 to 20'],
  ] as const)
    assert.throws(() => acceptRange(asked, { range, length }), { code: 'dataLoss', message });
});

test('the next page is found among the links', () => {
  assert.equal(nextLink('</v2/a/tags/list?n=1&last=x>; rel="next"'), '/v2/a/tags/list?n=1&last=x');
  assert.equal(nextLink('<https://a/first>; rel="first", <https://a/next>; title="a, b"; rel=next'), 'https://a/next');
  for (const header of [undefined, '', '<a>; rel="prev"', 'a; rel="next"', '<a>', '<a>; rel="nextish"']) assert.equal(nextLink(header), undefined, String(header));
});

test('no answer leads away from https, to no address, or with credentials of its choice', () => {
  const from = new URL('https://reg.example/v2/');
  assert.equal(resolveLocation('/x?y', from, 'redirects').href, 'https://reg.example/x?y');
  assert.equal(resolveLocation('https://u:p@cdn.example/x', from, 'redirects').href, 'https://cdn.example/x');
  assert.throws(() => resolveLocation('http://cdn.example/x', from, 'redirects'), {
    code: 'failedPrecondition',
    message: 'the registry redirects from https to plain http at cdn.example',
  });
  for (const location of [undefined, 'file:///etc/passwd', 'http://[bad'])
    assert.throws(() => resolveLocation(location, from, 'redirects'), { code: 'unavailable', message: 'the registry redirects to no address' }, String(location));
});
