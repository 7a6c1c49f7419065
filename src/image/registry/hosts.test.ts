/** What hosts.toml says, and what it must not. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError } from '#core';
import { type HostsFile, decodeHostsFile } from './hosts.ts';

const refuses = (text: string, message: string): void =>
  assert.throws(
    () => decodeHostsFile(text),
    (error) => {
      assert.ok(error instanceof RuntimeError, String(error));
      assert.equal(error.code, 'invalidArgument');
      assert.equal(error.message, message);
      return true;
    },
  );
const addresses = ({ hosts, serverUrl }: HostsFile): readonly string[] => [...hosts.map(({ url }) => url.href), ...(serverUrl === undefined ? [] : [serverUrl.href])];
const serverOf = (text: string): string | undefined => decodeHostsFile(text).serverUrl?.href;

describe('hosts.toml', () => {
  test('hosts keep the order of the file and have all their settings', () => {
    const file = decodeHostsFile(`
      server = "https://registry-1.docker.io"
      [host."https://z-mirror.example"]
        capabilities = ["pull"]
      [host."https://a-mirror.example:8443/cache"]
        capabilities = ["Resolve", "pull"]
        ca = "mirror.crt"
        client = [["client.cert", "client.key"], "both.pem", ["same.pem", ""]]
        skip_verify = true
        dial_timeout = "1m30.5s"
        [host."https://a-mirror.example:8443/cache".header]
          x-one = "a"
          x-many = ["b", "c"]
      [host."http://10.0.0.1:5000"]
        proxy = "http://user:s3cret@proxy.example:3128"
    `);
    assert.deepEqual(addresses(file), ['https://z-mirror.example/v2/', 'https://a-mirror.example:8443/cache/v2/', 'http://10.0.0.1:5000/v2/', 'https://registry-1.docker.io/v2/']);
    const [first, second, third] = file.hosts;
    assert.deepEqual(first?.capabilities, ['pull']);
    assert.deepEqual(second?.capabilities, ['pull', 'resolve']);
    assert.deepEqual(second?.caFiles, ['mirror.crt']);
    assert.deepEqual(second?.clientFiles, [{ certFile: 'client.cert', keyFile: 'client.key' }, { certFile: 'both.pem' }, { certFile: 'same.pem' }]);
    assert.equal(second?.skipVerify, true);
    assert.equal(second?.dialTimeoutMs, 90_500);
    assert.deepEqual({ ...second?.headers }, { 'x-one': ['a'], 'x-many': ['b', 'c'] });
    assert.deepEqual(third?.capabilities, ['pull', 'resolve', 'push']);
    assert.equal(third?.dialTimeoutMs, undefined);
    assert.equal(third?.proxy, 'http://user:s3cret@proxy.example:3128');
  });

  test('addresses get their scheme and the prefix of the interface, unless the path is overridden', () => {
    assert.equal(serverOf('server = "registry.example"'), 'https://registry.example/v2/');
    assert.equal(serverOf('server = "https://registry.example/v2"'), 'https://registry.example/v2/');
    assert.equal(serverOf('server = "https://registry.example/a/../b//"'), 'https://registry.example/b/v2/');
    assert.equal(serverOf('server = "https://registry.example/api/registry"\noverride_path = true'), 'https://registry.example/api/registry/');
    assert.equal(serverOf('server = "https://registry.example"\noverride_path = true'), 'https://registry.example/');
    assert.equal(serverOf('server = "https://docker.io"'), 'https://registry-1.docker.io/v2/');
    assert.equal(serverOf('server = ""'), undefined);
    // A host whose name begins like a scheme is still a host.
    assert.equal(serverOf('server = "httpd.example"'), 'https://httpd.example/v2/');
  });

  test('plain http is for addresses that say so, and for the loopback interface without a scheme', () => {
    assert.equal(serverOf('server = "http://registry.example"'), 'http://registry.example/v2/');
    assert.equal(serverOf('server = "localhost:5000"'), 'http://localhost:5000/v2/');
    assert.equal(serverOf('server = "localhost:5000"\nca = "x.crt"'), 'https://localhost:5000/v2/');
    assert.equal(serverOf('server = "https://127.0.0.1:5000"'), 'https://127.0.0.1:5000/v2/');
    assert.equal(serverOf('server = "10.1.2.3:5000"'), 'https://10.1.2.3:5000/v2/');
  });

  test('an empty file and empty lists mean the defaults', () => {
    const file = decodeHostsFile('capabilities = []\n');
    assert.deepEqual(file.hosts, []);
    assert.equal(file.serverUrl, undefined);
    assert.deepEqual(file.server.capabilities, ['pull', 'resolve', 'push']);
  });

  test('what is misspelt or of another kind is refused by the name of its key', () => {
    refuses('capabilites = ["pull"]', 'capabilites: unknown field');
    refuses('[host."https://a.example"]\nrewrite = {}', 'host["https://a.example"].rewrite: unknown field');
    refuses('capabilities = ["pull", "delete"]', 'capabilities[1]: unknown capability "delete" (pull, resolve, push)');
    refuses('capabilities = "pull"', 'capabilities: must be an array, not string');
    refuses('skip_verify = "yes"', 'skip_verify: must be true or false, not string');
    refuses('ca = 3', 'ca: must be an array, not number');
    refuses('client = [["a", "b", "c"]]', 'client[0]: must be one file, or a pair of certificate and key');
    refuses('dial_timeout = "soon"', 'dial_timeout: "soon" is no duration such as "5s" or "500ms"');
    refuses('dial_timeout = "5s later"', 'dial_timeout: "5s later" is no duration such as "5s" or "500ms"');
    refuses('dial_timeout = "1h"', 'dial_timeout: "1h" is more than 10 minutes');
    refuses('host = 3', 'host: must be an object, not number');
    refuses('[host.5000]', 'host["5000"]: is no address');
    refuses('[host."ftp://a.example"]', 'host["ftp://a.example"]: "ftp://a.example" is neither https nor http');
    refuses('server = "https://a b"', 'server: "https://a b" is no address');
    refuses('server = "https://a.example/?x=1"', 'server: "https://a.example/?x=1" has a query or a fragment');
    refuses('[host.__proto__]\nskip_verify = true', 'not TOML at line 1, column 2');
    refuses(Array.from({ length: 33 }, (_none, index) => `[host."h${index}.example"]`).join('\n'), 'host: 33 hosts, at most 32');
  });

  test('headers cannot break a request, and neither a header nor an address shows its secret', () => {
    refuses('[header]\nhost = "x"', 'header.host: cannot be set here');
    refuses('[header]\n"a b" = "x"', 'header["a b"]: is no name of a header');
    refuses('[header]\nauthorization = "Basic s3cret\\r\\nx: y"', 'header.authorization: has a value with other than printable ASCII characters, or too long');
    refuses('[header]\nauthorization = "Basic s3cret\n', 'not TOML at line 2, column 30');
    refuses('server = "https://user:s3cret@a.example"', 'server: credentials do not belong into an address');
    refuses('[host."https://user:s3cret@a.example"]', 'host["…"]: credentials do not belong into an address');
    refuses('proxy = "socks5://user:s3cret@proxy.example"', 'proxy: must be an http or https URL');
    refuses('proxy = "http://user:s3cret@proxy.example/path"', 'proxy: must be an address without path, query or fragment');
    refuses('[host."https://user:s3cret@a b"]', 'host["…"]: the address is no address');
  });
});
