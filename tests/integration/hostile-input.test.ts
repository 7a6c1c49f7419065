/**
 * Hostile words: manifests, image configs and host files that try to become commands, lines of files, users, prototypes or terminal
 * sequences, and secrets that try to get out. Through the command line, as a user would meet them.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { fromBinary } from '@bufbuild/protobuf';
import { PodSandboxConfigSchema } from '#gen/cri-v1_pb.js';
import { decodePodSandboxConfig } from '../../src/cri/decode-pod.ts';
import { encodeHosts } from '../../src/pod/files.ts';
import { BerthHost, type Finished, busybox, image, manifest, shellContainer, skipReason } from './berth-host.ts';
import { slowness } from './hostile-probe.ts';
import { Layout, tarOf } from './image-host.ts';

const escape = '\u001b[2J\u001b]0;owned\u0007';

describe('hostile words', { skip: skipReason(), timeout: 180_000 * slowness }, () => {
  let host: BerthHost;
  let layer: Buffer;
  let count = 0;
  before(async () => {
    host = await BerthHost.open();
    const passwd =
      'root:x:0:0::/root:/bin/sh\\nweb:x:1000:1001::/:/bin/sh\\n1234:x:0:0::/:/bin/sh\\n-1:x:0:0::/:/bin/sh\\nwrap:x:4294967296:0::/:/bin/sh\\nminus:x:-1:0::/:/bin/sh\\n';
    layer = tarOf(`mkdir bin etc proc sys dev tmp; cp ${busybox} bin/busybox; printf '${passwd}' > etc/passwd; printf 'root:x:0:\\n77:x:0:\\n' > etc/group`);
  });
  after(async () => host[Symbol.asyncDispose]());
  afterEach(async () => {
    assert.deepEqual(await host.json(['pods']), []);
    assert.equal(existsSync(join(host.directory, 'pwned')), false);
  });

  /** One line, of printable characters, from the program itself. */
  function assertOneError({ status, stdout, stderr }: Finished, message: RegExp, what: string): void {
    assert.notEqual(status, 0, `${what}: ${stdout}`);
    assert.match(stderr, /^berth: [^\n]{1,2000}\n$/, what);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(stderr.slice(0, -1), /[\u0000-\u001f\u007f-\u009f]/, what);
    assert.match(stderr, message, what);
  }

  /** One image for each config; gives their names. */
  async function importImages(configs: readonly Readonly<Record<string, unknown>>[]): Promise<readonly string[]> {
    const layout = new Layout(host.scratch(`layout-${(count += 1)}`));
    const names = configs.map((_, index) => `localhost/hostile-${count}-${index}:1`);
    for (const [index, config] of configs.entries())
      layout.add(layout.manifest({ layers: [layer], compression: 'none', architecture: process.arch === 'arm64' ? 'arm64' : 'amd64', config }), names[index] ?? '');
    await host.ok(['image', 'import', layout.dir]);
    return names;
  }

  const show = ['/bin/busybox', 'sh', '-c', 'echo $(/bin/busybox id -u):$(/bin/busybox id -g)'];

  it('in the user of an image are numbers of 32 bits or names, and never both', async () => {
    const good = [
      ['1234', '1234:0'],
      ['1234:77', '1234:77'],
      ['web', '1000:1001'],
      ['4294967294', '4294967294:0'],
      ['', '0:0'],
    ] as const;
    const bad = [
      '4294967295',
      '4294967296',
      '-1',
      '+0',
      '18446744073709551616',
      '0x0',
      '1000a',
      '1e3',
      ' 0',
      '0 ',
      '1:4294967296',
      '1:-1',
      'wrap',
      'minus',
      'web:nobody',
      `x${escape}`,
      'a\nb',
      '9'.repeat(5000),
    ];
    const names = await importImages([...good.map(([user]) => user), ...bad].map((user) => ({ User: user })));
    for (const [index, [user, expected]] of good.entries()) assert.equal(await host.ok(['run', '--rm', names[index] ?? '', ...show]), `${expected}\n`, user);
    for (const [index, user] of bad.entries())
      assertOneError(await host.berth(['run', '--rm', names[good.length + index] ?? '', ...show]), /(user|group) /, JSON.stringify(user.slice(0, 30)));
  });

  it('in other fields of an image config never become host paths, commands, lines or terminal sequences', async () => {
    const pwned = join(host.directory, 'pwned');
    const runs: readonly (readonly [Readonly<Record<string, unknown>>, RegExp])[] = [
      [{ Volumes: JSON.parse(`{"${pwned}":{},"/proc/self/fd/7":{},"__proto__":{},"constructor":{}}`) }, /^0:0\n$/],
      [{ Labels: JSON.parse('{"__proto__":"polluted","constructor":"x","io.kubernetes.pod.uid":"forged","berth.run":"touch"}') }, /^0:0\n$/],
      [{ Env: [`LD_PRELOAD=${pwned}`, `A=${escape}`, 'PATH=../../../bin:/bin'] }, /^0:0\n$/],
      [{ WorkingDir: '../../../../../../tmp' }, /^0:0\n$/],
      [{ ExposedPorts: { '99999/udp;touch': {} }, Healthcheck: { Test: ['CMD-SHELL', `touch ${pwned}`] }, OnBuild: [`RUN touch ${pwned}`] }, /^0:0\n$/],
    ];
    const names = await importImages(runs.map(([config]) => config));
    for (const [index, [config, output]] of runs.entries()) assert.match(await host.ok(['run', '--rm', names[index] ?? '', ...show]), output, JSON.stringify(config));
    const layout = new Layout(host.scratch('labels'));
    layout.add(layout.manifest({ layers: [layer], config: { Labels: JSON.parse('{"__proto__":{"polluted":"yes"}}') } }), 'localhost/labels:1');
    assertOneError(await host.berth(['image', 'import', layout.dir]), /config\.Labels\.__proto__: must be a string, not object/, 'labels');
    const refusals: readonly (readonly [Readonly<Record<string, unknown>>, readonly string[], RegExp])[] = [
      [{ Volumes: { '/../../../etc': {} } }, show, /image config\.Volumes: "\/\.\.\/\.\.\/\.\.\/etc" must not contain/],
      [{ Volumes: { [`/${escape}\n/..`]: {} } }, show, /image config\.Volumes: /],
      [{ WorkingDir: '/proc/self/fd/7' }, show, /(ELOOP|EPERM|ENOENT|EACCES|EEXIST)/],
      [{ WorkingDir: `/etc/passwd/${escape}` }, show, /ENOTDIR/],
      [{ Entrypoint: [`/no${escape}\nthing`] }, [], /ENOENT/],
      [{ StopSignal: 'SIGKILL; touch x' }, show, /SIGKILL; touch x/],
      [{ StopSignal: `9${'0'.repeat(400)}` }, show, /signal/],
    ];
    const refused = await importImages(refusals.map(([config]) => config));
    for (const [index, [config, command, message]] of refusals.entries())
      assertOneError(await host.berth(['run', '--rm', refused[index] ?? '', ...command]), message, JSON.stringify(config).slice(0, 80));
  });

  it('in a manifest are refused where they would forge a line, climb, or add a property', async () => {
    const main = shellContainer('main', 'true');
    const pod = (text: string): string => text;
    const cases: readonly (readonly [string, RegExp])[] = [
      [manifest({ hostname: 'a\n1.2.3.4 evil', containers: [main] }), /spec\.hostname/],
      [manifest({ hostAliases: [{ ip: '1.2.3.4', hostnames: ['a\tb\n5.6.7.8 c'] }], containers: [main] }), /spec\.hostAliases\[0\]\.hostnames\[0\]/],
      [manifest({ hostAliases: [{ ip: '1.2.3.4 evil', hostnames: ['a'] }], containers: [main] }), /spec\.hostAliases\[0\]\.ip/],
      [manifest({ dnsConfig: { nameservers: ['1.1.1.1\nsearch evil'] }, dnsPolicy: 'None', containers: [main] }), /spec\.dnsConfig\.nameservers\[0\]/],
      [manifest({ dnsConfig: { searches: ['a b\noptions x'] }, containers: [main] }), /spec\.dnsConfig\.searches\[0\]/],
      [manifest({ dnsConfig: { options: [{ name: 'x\ny', value: '1' }] }, containers: [main] }), /spec\.dnsConfig\.options\[0\]/],
      [manifest({ securityContext: { sysctls: [{ name: 'kernel.core_pattern', value: '|/bin/evil' }] }, containers: [main] }), /(kernel\.core_pattern|sysctls)/],
      [manifest({ securityContext: { sysctls: [{ name: 'net.ipv4.ip_forward', value: '1\n+kernel.core_pattern=|/evil' }] }, containers: [main] }), /sysctl/],
      [manifest({ securityContext: { sysctls: [{ name: 'net/../kernel/core_pattern', value: '1' }] }, containers: [main] }), /sysctl/],
      [manifest({ containers: [main] }, '../../etc'), /metadata\.name/],
      [manifest({ containers: [main] }, `x${escape}`), /metadata\.name/],
      [manifest({ containers: [shellContainer('../x', 'true')] }), /spec\.containers\[0\]\.name/],
      [manifest({ volumes: [{ name: '../x', emptyDir: {} }], containers: [main] }), /spec\.volumes\[0\]\.name/],
      [manifest({ volumes: [{ name: 'v', emptyDir: {} }], containers: [{ ...main, volumeMounts: [{ name: 'v', mountPath: '/v', subPath: '../../..' }] }] }), /subPath/],
      [manifest({ volumes: [{ name: 'v', emptyDir: {} }], containers: [{ ...main, volumeMounts: [{ name: 'v', mountPath: '/a/../../etc' }] }] }), /mountPath/],
      [manifest({ containers: [{ ...main, securityContext: { runAsUser: 4294967296 } }] }), /runAsUser/],
      [manifest({ containers: [{ ...main, securityContext: { runAsUser: -1 } }] }), /runAsUser/],
      [manifest({ containers: [{ ...main, env: [{ name: 'A=B', value: 'x' }] }] }), /env\[0\]\.name/],
      [manifest({ containers: [{ ...main, env: [{ name: 'A', value: 'x\0y' }] }] }), /env\[0\]\.value/],
      [manifest({ containers: [main] }).replace('"spec":{', '"spec":{"__proto__":{"hostPID":true},'), /__proto__/],
      [manifest({ containers: [main] }).replace('"spec":{', '"__proto__":{"x":1},"spec":{"constructor":{"prototype":{}},'), /(__proto__|constructor)/],
      [manifest({ containers: [{ ...main, securityContext: {} }] }).replace('"securityContext":{', '"securityContext":{"__proto__":{"privileged":true}'), /__proto__/],
      [
        pod(
          'a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n',
        ),
        /alias/i,
      ],
      [pod('apiVersion: !!js/function "() => 1"\nkind: Pod\n'), /./],
      [pod(`{"apiVersion":"v1","kind":"Pod","x":${'['.repeat(50_000)}`), /./],
      [pod(`apiVersion: v1\nkind: Pod\nx: ${'y'.repeat(9 << 20)}\n`), /(bytes|large|at most)/],
      [pod('\u0000\u0001\u0002'), /./],
    ];
    for (const [text, message] of cases) assertOneError(await host.berth(['run', '-'], text), message, text.slice(0, 200));
  });

  it('that are secrets do not get into explained plans, errors, process lists or state files of others', async () => {
    const secret = 'hunter2-very-secret';
    const container = shellContainer('main', 'true', { env: [{ name: 'TOKEN', value: secret }], command: ['/does/not/exist'] });
    const documents = [
      JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'c' }, data: { key: secret } }),
      manifest({ volumes: [{ name: 'c', configMap: { name: 'c' } }], containers: [{ ...container, volumeMounts: [{ name: 'c', mountPath: '/c' }] }] }),
    ].join('\n---\n');
    const explained = await host.ok(['explain', '-'], documents);
    assert.ok(explained.length > 500 && !explained.includes(secret) && explained.includes('<redacted>'), explained.slice(0, 500));
    assert.ok((await host.ok(['explain', '--show-secrets', '-'], documents)).includes(secret));
    const failed = await host.berth(['run', '-'], documents);
    assert.notEqual(failed.status, 0);
    assert.ok(!(failed.stdout + failed.stderr).includes(secret), failed.stderr);
    const debugged = await host.berth(['--debug', 'run', '-'], documents);
    assert.ok(!(debugged.stdout + debugged.stderr).includes(secret), debugged.stderr);
    const [name = ''] = await importImages([{ Env: [`TOKEN=${secret}`] }]);
    await host.ok(['run', '-d', '--name', 'holder', '-e', `OTHER=${secret}`, name, '/bin/busybox', 'sleep', '1000']);
    assert.ok(!(await host.ok(['inspect', 'holder'])).includes(secret), 'inspect shows the environment');
    for (const command of [['ps'], ['pods'], ['ps', '-a', '--output', 'json'], ['logs', 'holder']]) assert.ok(!(await host.ok(command)).includes(secret), command.join(' '));
    await host.ok(['rm', '-f', 'holder']);
  });

  it('are closed to other users of the host, also in a state directory that somebody made too open', async () => {
    await using loose = new BerthHost();
    for (const path of [loose.root, loose.run]) mkdirSync(path, { mode: 0o755 });
    chmodSync(loose.directory, 0o755);
    await loose.ok(['image', 'from-host', image, busybox]);
    await loose.ok(['run', '-d', '--name', 'holder', '-e', 'TOKEN=x', image, busybox, 'sleep', '1000']);
    const asNobody = `find ${loose.root} ${loose.run} -mindepth 1 \\( -type f -readable -o -type d -executable -o -type s -writable \\) 2>/dev/null || true`;
    assert.equal(execFileSync('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'sh', '-c', asNobody], { encoding: 'utf8' }), '');
  });

  it("name files that an image of the host's must not take along", async () => {
    const directory = host.scratch('private');
    const program = join(directory, 'program');
    copyFileSync(busybox, program);
    chmodSync(program, 0o700);
    execFileSync('mkfifo', ['-m', '755', join(directory, 'fifo')]);
    execFileSync('mknod', ['-m', '755', join(directory, 'device'), 'c', '1', '5']);
    symlinkSync('/etc/shadow', join(directory, 'shadow'));
    symlinkSync('/proc/self/exe', join(directory, 'self'));
    mkdirSync('/run/berth-hostile-test', { recursive: true });
    copyFileSync(busybox, '/run/berth-hostile-test/program');
    symlinkSync('/run/berth-hostile-test/program', join(directory, 'run'));
    writeFileSync(join(directory, 'script'), '#!/bin/sh\n', { mode: 0o755 });
    try {
      for (const path of [
        program,
        join(directory, 'fifo'),
        join(directory, 'device'),
        join(directory, 'shadow'),
        join(directory, 'self'),
        join(directory, 'run'),
        directory,
        '/etc/shadow',
        '/proc/self/exe',
        '/proc/1/root/bin/sh',
        '/sys/kernel/vmcoreinfo',
        '/dev/zero',
        '/run/berth-hostile-test/program',
        join(directory, 'none'),
      ]) {
        assertOneError(await host.berth(['image', 'from-host', 'localhost/taken:1', path]), /./, path);
      }
    } finally {
      execFileSync('rm', ['-r', '/run/berth-hostile-test']);
    }
    assert.equal(
      (await host.json(['images'])).some((found) => JSON.stringify(found).includes('taken')),
      false,
    );
  });

  it('in the maps of a CRI message stay keys, and a name that is no line is refused', () => {
    const field = (number: number, content: string | Buffer): Buffer => Buffer.concat([Buffer.from([(number << 3) | 2, Buffer.byteLength(content)]), Buffer.from(content)]);
    const entry = (key: string): Buffer => Buffer.concat([field(1, key), field(2, 'evil')]);
    const metadata = field(1, Buffer.concat([field(1, 'a\n6.6.6.6 evil'), field(2, 'u'), field(3, 'n')]));
    const bytes = Buffer.concat([metadata, ...['__proto__', 'constructor', 'toString'].map((key) => field(7, entry(key)))]);
    const config = decodePodSandboxConfig('config', fromBinary(PodSandboxConfigSchema, bytes));
    for (const key of Object.keys(config.annotations)) assert.equal(Object.getOwnPropertyDescriptor(config.annotations, key)?.value, 'evil');
    assert.ok(Object.keys(config.annotations).includes('constructor'));
    assert.equal(Object.getPrototypeOf(config.annotations) === Object.prototype || Object.getPrototypeOf(config.annotations) === null, true);
    assert.equal(Object.hasOwn(Object.prototype, 'evil'), false);
    assert.throws(() => encodeHosts(config, config.metadata.name, '10.0.0.2', undefined), {
      code: 'invalidArgument',
      message: 'hostname: "a\\n6.6.6.6 evil" is not a single word',
    });
  });

  it('stay on their own line in what a container is given', async () => {
    const { stdout } = await host.shell('cat /etc/hosts /etc/hostname /etc/resolv.conf | wc -l; hostname', ['--name', 'plain']);
    assert.match(stdout, /^\d+\n[a-z0-9.-]+\n$/);
    assert.equal(readFileSync('/proc/sys/kernel/core_pattern', 'utf8').includes('evil'), false);
    assert.ok((await host.json(['images'])).length > 0);
  });
});
