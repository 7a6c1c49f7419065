/** Credentials out of files that others wrote, and never a secret in a message. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError } from '#core';
import { credentialQuery, decodeCredentials, decodeHelperAnswer, helperServers, saysNotFound } from './credentials.ts';

const basic = (user: string): string => Buffer.from(`${user}:pass-${user}`).toString('base64');
const userFor = (auths: Readonly<Record<string, unknown>>, name: string): string | undefined => decodeCredentials(JSON.stringify({ auths }), credentialQuery(name)).auth?.username;

describe('credentials', () => {
  test('the longest path of a repository that has an entry decides, part by part', () => {
    const auths = { 'quay.io': { auth: basic('all') }, 'quay.io/team': { auth: basic('team') }, 'quay.io/team/app': { auth: basic('app') } };
    assert.equal(userFor(auths, 'quay.io/team/app'), 'app');
    assert.equal(userFor(auths, 'quay.io/team/app/part'), 'app');
    assert.equal(userFor(auths, 'quay.io/team/other'), 'team');
    assert.equal(userFor(auths, 'quay.io/teamwork/app'), 'all');
    assert.equal(userFor(auths, 'quay.io'), 'all');
    assert.equal(userFor({ 'quay.io/team': { auth: basic('team') } }, 'quay.io'), undefined);
    assert.equal(userFor(auths, 'quay.io:443/team'), undefined);
    assert.equal(userFor({ 'quay.io.evil.example': { auth: basic('x') } }, 'quay.io'), undefined);
  });

  test('keys may be addresses, and docker has several names for its own registry', () => {
    assert.equal(userFor({ 'https://reg.example:5000/v2/': { auth: basic('a') } }, 'reg.example:5000/x'), 'a');
    assert.equal(userFor({ 'reg.example/v1/': { auth: basic('a') } }, 'reg.example'), 'a');
    for (const key of ['https://index.docker.io/v1/', 'index.docker.io', 'docker.io', 'registry-1.docker.io'])
      assert.equal(userFor({ [key]: { auth: basic('hub') } }, 'docker.io/library/busybox'), 'hub', key);
    assert.equal(userFor({ 'http://reg.example': { auth: basic('address') }, 'reg.example': { auth: basic('name') } }, 'reg.example'), 'name');
  });

  test('an entry holds basic credentials, tokens, or nothing', () => {
    const decode = (entry: unknown) => decodeCredentials(JSON.stringify({ auths: { r: entry } }), credentialQuery('r')).auth;
    assert.deepEqual(decode({ auth: Buffer.from('u:p:q\0\0').toString('base64') }), { username: 'u', password: 'p:q' });
    assert.deepEqual(decode({ username: 'u', password: 'p' }), { username: 'u', password: 'p' });
    assert.deepEqual(decode({ auth: basic('u'), identitytoken: 'refresh' }), { username: 'u', password: 'pass-u', identityToken: 'refresh' });
    assert.deepEqual(decode({ registrytoken: 'bearer' }), { registryToken: 'bearer' });
    assert.equal(decode({}), undefined);
    assert.equal(decode({ auth: '', username: '' }), undefined);
  });

  test('a helper is the one of the registry, else the store; an empty word excepts a registry', () => {
    const helper = (file: unknown, name: string) => decodeCredentials(JSON.stringify(file), credentialQuery(name)).helper;
    const file = { credsStore: 'pass', credHelpers: { 'gcr.io': 'gcloud', 'plain.example': '' } };
    assert.equal(helper(file, 'gcr.io/project/app'), 'gcloud');
    assert.equal(helper(file, 'other.example'), 'pass');
    assert.equal(helper(file, 'plain.example'), undefined);
    assert.equal(helper({}, 'gcr.io'), undefined);
    assert.deepEqual(helperServers(credentialQuery('docker.io/library/x')), ['https://index.docker.io/v1/', 'docker.io']);
    assert.deepEqual(helperServers(credentialQuery('reg.example:5000/x')), ['reg.example:5000']);
  });

  test('answers of helpers are passwords or tokens; what they lack is told from what fails', () => {
    assert.deepEqual(decodeHelperAnswer('{"ServerURL":"r","Username":"u","Secret":"s"}'), { username: 'u', password: 's' });
    assert.deepEqual(decodeHelperAnswer('{"Username":"<token>","Secret":"s"}'), { identityToken: 's' });
    assert.equal(decodeHelperAnswer('{"Username":"","Secret":""}'), undefined);
    assert.ok(saysNotFound('credentials not found in native keychain\n'));
    assert.ok(!saysNotFound('error getting credentials: the keychain is locked'));
  });

  test('a broken file is named by its key and never quoted', () => {
    const secret = Buffer.from('user-without-colon-s3cret').toString('base64');
    const refuses = (decode: () => unknown, message: string): void =>
      assert.throws(decode, (error) => {
        assert.ok(error instanceof RuntimeError, String(error));
        assert.equal(error.message, message);
        assert.equal(error.cause, undefined);
        return true;
      });
    const decode = (text: string) => () => decodeCredentials(text, credentialQuery('r'));
    refuses(decode(`{"auths":{"r":{"auth":"${secret}"}}}`), 'auths.r.auth: is not the base64 of user:password');
    refuses(decode(`{"auths":{"r":{"auth":["${secret}"]}}}`), 'auths.r.auth: must be a string, not array');
    refuses(decode(`{"auths":{"r":{"auth":"${secret}"`), 'not JSON');
    refuses(decode(`{"auths":{"r":"${secret}"}}`), 'auths.r: must be an object, not string');
    refuses(decode('{"auths":[]}'), 'auths: must be an object, not array');
    refuses(decode('{"credsStore":"../../bin/sh"}'), 'credsStore: is no name of a credential helper');
    refuses(decode('{"credHelpers":{"r":"a b"}}'), 'credHelpers.r: is no name of a credential helper');
    refuses(() => decodeHelperAnswer(`s3cret {`), 'its answer is not JSON');
    refuses(() => decodeHelperAnswer(`{"Secret":{}}`), 'answer.Secret: must be a string, not object');
    // Entries of others are none of our business.
    assert.equal(userFor({ other: { auth: secret }, r: { auth: basic('me') } }, 'r'), 'me');
    assert.equal(decodeCredentials('{"auths":{"__proto__":{"auth":"x"}}}', credentialQuery('r')).auth, undefined);
  });
});
