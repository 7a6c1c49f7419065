/** References and digests: what they normalise to, and what is refused with which words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { isDigest } from './digest.ts';
import { formatReference, parseReference, repositoryTag } from './reference.ts';

const digest = `sha256:${'a'.repeat(64)}`;

test('a reference is normalised as every container tool does', () => {
  const cases: readonly (readonly [string, string])[] = [
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['user/app', 'docker.io/user/app:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/a/b:c', 'docker.io/a/b:c'],
    ['localhost/x', 'localhost/x:latest'],
    ['localhost:5000/x:1', 'localhost:5000/x:1'],
    ['127.0.0.1:5000/a/b__c/d-e:v1.2_3', '127.0.0.1:5000/a/b__c/d-e:v1.2_3'],
    ['[::1]:5000/x', '[::1]:5000/x:latest'],
    ['REG/x', 'REG/x:latest'],
    [`quay.io/a/b@${digest}`, `quay.io/a/b@${digest}`],
    [`quay.io/a/b:1@${digest}`, `quay.io/a/b:1@${digest}`],
  ];
  for (const [text, wanted] of cases) assert.equal(formatReference(parseReference(text)), wanted, text);
});

test('a reference by digest alone has no repository tag', () => {
  assert.equal(repositoryTag(parseReference(`x@${digest}`)), undefined);
  assert.equal(repositoryTag(parseReference(`x:1@${digest}`)), 'docker.io/library/x:1');
});

test('a bad reference is one line that quotes it', () => {
  const cases: readonly (readonly [string, string])[] = [
    ['', 'must not be empty'],
    ['UPPER', 'repository must be lower case'],
    ['a/UPPER', 'repository must be lower case'],
    ['x:', 'tag "" must be 1 to 128 letters, digits, "_", "." or "-"'],
    ['x:a b', 'tag "a b" must be 1 to 128 letters, digits, "_", "." or "-"'],
    ['x@sha256:12', '"sha256:12" is no sha256 or sha512 digest'],
    ['localhost//x', 'repository has an empty part'],
    ['../x', 'repository part ".." may have letters, digits and single separators (. _ __ -) between them'],
    ['host.example:x/y', '"host.example:x" is no registry host'],
    ['a'.repeat(64), 'is an image id, not a name'],
    [`sha256:${'a'.repeat(64)}`, 'is an image id, not a name'],
    [`sha512:${'b'.repeat(128)}`, 'is an image id, not a name'],
    [`localhost/${'a'.repeat(256)}`, 'repository is longer than 255 characters'],
  ];
  for (const [text, cause] of cases) {
    assert.throws(
      () => parseReference(text),
      (error) => {
        assert.ok(error instanceof RuntimeError);
        assert.equal(error.code, 'invalidArgument');
        const wanted = text === '../x' ? new RegExp('^image reference "\\.\\./x": ') : `image reference ${JSON.stringify(text)}: ${cause}`;
        if (typeof wanted === 'string') assert.equal(error.message, wanted);
        else assert.match(error.message, wanted);
        return true;
      },
    );
  }
});

test('a digest has a registered algorithm and lower-case digits of its length', () => {
  assert.equal(isDigest(digest), true);
  assert.equal(isDigest(`sha512:${'0'.repeat(128)}`), true);
  for (const text of ['', 'sha256:', `sha256:${'A'.repeat(64)}`, `sha256:${'a'.repeat(63)}`, `md5:${'a'.repeat(32)}`, `sha256:../${'a'.repeat(61)}`, `${digest}\n`])
    assert.equal(isDigest(text), false, text);
});
