/** Pods from the command line to the process and back: what users do, and that nothing is left when it is over. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { BerthHost, busybox, image, manifest, shellContainer, skipReason } from './berth-host.ts';

/** What a container wrote, from the output of `berth run` of a manifest. */
function linesOf(stdout: string, container: string): string[] {
  return stdout.split('\n').flatMap((line) => new RegExp(`^${container} *\\| (.*)$`).exec(line)?.[1] ?? []);
}

describe('pods', { skip: skipReason() }, () => {
  let host: BerthHost;
  before(async () => {
    host = await BerthHost.open();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  it('run a command, pass its output and exit code on, and leave nothing', async () => {
    assert.deepEqual(await host.shell('echo out; echo err >&2; exit 7'), { status: 7, stdout: 'out\n', stderr: 'err\n' });
    assert.deepEqual(await host.json(['ps', '-a']), []);
    await host.assertNoRemains();
  });

  it('share the network between the containers of a manifest, and show stages, logs and exit codes', async () => {
    const server = shellContainer('server', 'echo listening; echo answer | nc -l -p 8080 127.0.0.1');
    const client = shellContainer('client', 'until nc 127.0.0.1 8080; do sleep 0.05; done');
    const { status, stdout } = await host.berth(['run', '-'], manifest({ containers: [server, client] }));
    assert.equal(status, 0, stdout);
    for (const line of [/^sandbox\s+default\/pod\s/m, /^network\s+10\./m, /^container server\s/m, /^client \| answer$/m, /^exit\s+client\s+code 0/m]) assert.match(stdout, line);
    await host.assertNoRemains();
  });

  it('give the first exit code that is not 0', async () => {
    const { status } = await host.berth(['run', '-'], manifest({ containers: [shellContainer('good', 'exit 0'), shellContainer('bad', 'exit 3')] }));
    assert.equal(status, 3);
  });

  it('run init containers in order before the others, with a sidecar beside them', async () => {
    const spec = {
      volumes: [{ name: 'shared', emptyDir: {} }],
      initContainers: [
        shellContainer('sidecar', 'echo sidecar >> /shared/order; sleep 1000', { restartPolicy: 'Always', volumeMounts: [{ name: 'shared', mountPath: '/shared' }] }),
        shellContainer('first', 'until grep -q sidecar /shared/order; do sleep 0.05; done; sleep 0.2; echo first >> /shared/order', {
          volumeMounts: [{ name: 'shared', mountPath: '/shared' }],
        }),
        shellContainer('second', 'echo second >> /shared/order', { volumeMounts: [{ name: 'shared', mountPath: '/shared' }] }),
      ],
      terminationGracePeriodSeconds: 1,
      containers: [shellContainer('main', 'cat /shared/order', { volumeMounts: [{ name: 'shared', mountPath: '/shared' }] })],
    };
    const { status, stdout, stderr } = await host.berth(['run', '-'], manifest(spec));
    assert.equal(status, 0, stdout + stderr);
    assert.deepEqual(linesOf(stdout, 'main'), ['sidecar', 'first', 'second']);
  });

  it('have one /dev/shm of 64 MiB, one hostname and one hosts file for all containers', async () => {
    const spec = {
      hostname: 'box',
      hostAliases: [{ ip: '192.0.2.7', hostnames: ['seven.example'] }],
      dnsConfig: { nameservers: ['192.0.2.53'], searches: ['example'], options: [{ name: 'ndots', value: '2' }] },
      dnsPolicy: 'None',
      containers: [
        shellContainer('writer', 'echo shared > /dev/shm/note; sleep 1'),
        shellContainer(
          'reader',
          'until [ -s /dev/shm/note ]; do sleep 0.05; done; cat /dev/shm/note; df -m /dev/shm | tail -1; hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname',
        ),
      ],
    };
    const { stdout } = await host.berth(['run', '-'], manifest(spec));
    const lines = linesOf(stdout, 'reader');
    assert.equal(lines[0], 'shared');
    assert.match(lines[1] ?? '', /\s64\s/);
    assert.equal(lines[2], 'box');
    assert.ok(lines.includes('192.0.2.7\tseven.example'));
    assert.ok(lines.some((line) => /^10\.[\d.]+\tbox$/.test(line)));
    assert.deepEqual(lines.slice(-4), ['search example', 'nameserver 192.0.2.53', 'options ndots:2', 'box']);
  });

  it('show configMap, hostPath and emptyDir volumes, read-only where asked', async () => {
    const directory = host.scratch('volume');
    writeFileSync(`${directory}/given`, 'from the host\n');
    const documents = [
      JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'settings' }, data: { 'app.conf': 'colour=blue\n' } }),
      manifest({
        volumes: [
          { name: 'host', hostPath: { path: directory, type: 'Directory' } },
          { name: 'settings', configMap: { name: 'settings' } },
        ],
        containers: [
          shellContainer('main', 'cat /host/given /etc/settings/app.conf; touch /host/no 2>&1; exit 0', {
            volumeMounts: [
              { name: 'host', mountPath: '/host', readOnly: true },
              { name: 'settings', mountPath: '/etc/settings' },
            ],
          }),
        ],
      }),
    ].join('\n---\n');
    const { stdout, stderr } = await host.berth(['run', '-'], documents);
    const lines = linesOf(stdout, 'main');
    assert.deepEqual(lines.slice(0, 2), ['from the host', 'colour=blue'], stdout + stderr);
    assert.match(lines[2] ?? '', /Read-only file system/);
  });

  it('confine a container as its securityContext says', async () => {
    const container = shellContainer('main', 'id -u; id -g; id -G; grep -E "CapEff|NoNewPrivs|Seccomp:" /proc/self/status; touch /x 2>&1 || true', {
      securityContext: {
        runAsUser: 1000,
        runAsGroup: 2000,
        readOnlyRootFilesystem: true,
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
        seccompProfile: { type: 'RuntimeDefault' },
      },
    });
    const { stdout } = await host.berth(['run', '-'], manifest({ securityContext: { supplementalGroups: [3000] }, containers: [container] }));
    const lines = linesOf(stdout, 'main');
    assert.deepEqual(lines.slice(0, 3), ['1000', '2000', '2000 3000']);
    assert.deepEqual(lines.slice(3, 6), ['CapEff:\t0000000000000000', 'NoNewPrivs:\t1', 'Seccomp:\t2']);
    assert.match(lines[6] ?? '', /Read-only file system/);
  });

  it('report an OOM kill and a limit of processes', async () => {
    const hungry = shellContainer('hungry', 'x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done', { resources: { limits: { memory: '16Mi' } } });
    const { status, stdout } = await host.berth(['run', '-'], manifest({ containers: [hungry] }));
    assert.equal(status, 137);
    assert.match(stdout, /^exit\s+hungry\s+code 137\s+OOMKilled/m);
    const { stderr, stdout: output } = await host.shell('for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait', ['--pids-limit', '4']);
    assert.match(stderr + output, /can't fork/);
  });

  it('publish ports on the host, and name who has one already', async () => {
    const detached = await host.berth([
      'run',
      '-d',
      '--name',
      'web',
      '-p',
      '12345:80',
      image,
      busybox,
      'sh',
      '-c',
      'mkdir /www; echo hello > /www/index.html; httpd -f -p 80 -h /www',
    ]);
    assert.equal(detached.status, 0, detached.stderr);
    const { stdout } = await host.shell('until wget -q -O - http://127.0.0.1:12345/; do sleep 0.05; done', ['--network', 'host']);
    assert.equal(stdout, 'hello\n');
    const second = await host.shell('true', ['-p', '12345:80']);
    assert.equal(second.status, 1);
    assert.match(second.stderr, /^berth: .*host port 12345\/tcp is used by pod [0-9a-f]{64}\n$/);
    await host.ok(['rm', '-f', 'web']);
    await using server = createServer().listen(12346);
    await new Promise((resolve) => server.once('listening', resolve));
    const busy = await host.shell('true', ['-p', '12346:80']);
    assert.match(busy.stderr, /^berth: .*host port 12346\/tcp is in use on the host\n$/);
    await host.assertNoRemains();
  });

  it('go on when they are detached, can be looked at, entered, stopped and removed', async () => {
    await host.ok(['run', '-d', '--name', 'long', image, busybox, 'sh', '-c', 'trap "echo bye; exit 5" TERM; echo ready; while true; do sleep 0.05; done']);
    const [container] = await host.json(['ps']);
    assert.equal(container?.['state'], 'running');
    assert.equal(await host.ok(['exec', 'long', busybox, 'echo', 'inside']), 'inside\n');
    assert.equal((await host.berth(['exec', 'long', busybox, 'sh', '-c', 'exit 9'])).status, 9);
    assert.equal(await host.ok(['exec', '-i', 'long', busybox, 'cat'], 'typed\n'), 'typed\n');
    assert.equal(await host.ok(['logs', 'long']), 'ready\n');
    const refused = await host.berth(['rm', 'long']);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /^berth: .*--force.*\n$/);
    await host.ok(['stop', '-t', '10', 'long']);
    const [stopped] = await host.json(['ps', '-a']);
    assert.deepEqual([stopped?.['state'], stopped?.['exitCode']], ['exited', 5]);
    assert.equal(await host.ok(['logs', 'long']), 'ready\nbye\n');
    await host.ok(['rm', 'long']);
    assert.deepEqual(await host.json(['pods']), []);
    await host.assertNoRemains();
  });

  it('follow a log to its end', async () => {
    await host.ok(['run', '-d', '--name', 'talker', image, busybox, 'sh', '-c', 'for i in 1 2 3; do echo line $i; sleep 0.3; done']);
    assert.equal(await host.ok(['logs', '-f', 'talker']), 'line 1\nline 2\nline 3\n');
    await host.ok(['rm', '-f', 'talker']);
  });

  it('offer a terminal to run and exec', async () => {
    const command = [process.execPath, new URL('../../dist/berth.mjs', import.meta.url).pathname, '--root', host.root, '--run', host.run];
    const { execFileSync } = await import('node:child_process');
    const quoted = [...command, 'run', '--rm', '-it', image, busybox, 'sh', '-c', '"tty; stty size; test -t 0 && echo terminal"'].join(' ');
    const output = execFileSync('script', ['-qec', `stty rows 33 cols 77; ${quoted}`, '/dev/null'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    // script(1) turns the end of its own input into a NUL, which the terminal echoes.
    assert.match(output.replaceAll(/\r|\^@/g, ''), /\/dev\/pts\/0\n33 77\nterminal\n/);
  });

  it('never show their overlay on the host, while a bidirectional volume propagates', async () => {
    const directory = host.scratch('shared');
    const container = (name: string, propagation: string, script: string): Record<string, unknown> =>
      shellContainer(name, script, { securityContext: { privileged: true }, volumeMounts: [{ name: 'volume', mountPath: '/volume', mountPropagation: propagation }] });
    const run = host.start(
      ['run', '-'],
      manifest({
        volumes: [{ name: 'volume', hostPath: { path: directory } }],
        terminationGracePeriodSeconds: 1,
        containers: [
          container('none', 'None', 'touch /volume/none-is-up; until [ -e /volume/done ]; do sleep 0.05; done; grep -c from-pod /proc/self/mountinfo || true'),
          container(
            'both',
            'Bidirectional',
            'until [ -e /volume/none-is-up ]; do sleep 0.05; done; mkdir -p /volume/a; mount -t tmpfs from-pod /volume/a; echo mounted; until [ -e /volume/done ]; do sleep 0.05; done; umount /volume/a',
          ),
          container('inward', 'HostToContainer', 'until grep -q from-pod /proc/self/mountinfo; do sleep 0.05; done; echo sees; until [ -e /volume/done ]; do sleep 0.05; done'),
        ],
      }),
    );
    await run.untilOutput('| mounted');
    await run.untilOutput('| sees');
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
    assert.match(mounts, new RegExp(` ${directory}/a .* - tmpfs from-pod `));
    assert.ok(!mounts.includes('upperdir='), 'an overlay with an upper directory is visible on the host');
    writeFileSync(`${directory}/done`, '');
    const { status, stdout } = await run.finished;
    assert.equal(status, 0, stdout);
    assert.match(stdout, /^none +\| 0$/m);
  });

  it('share a PID namespace whose pause process shows nothing of the host, even to SYS_PTRACE', async () => {
    const look = 'cat /proc/1/comm; ls -A /proc/1/root/ 2>&1; ls /proc/1/root/etc /proc/1/cwd/etc 2>&1; ls -l /proc/1/fd 2>&1; readlink /proc/1/exe 2>&1';
    for (const capabilities of [{}, { add: ['SYS_PTRACE'] }]) {
      const { stdout } = await host.berth(
        ['run', '-'],
        manifest({ shareProcessNamespace: true, containers: [shellContainer('look', look, { securityContext: { capabilities } })] }),
      );
      const lines = linesOf(stdout, 'look');
      assert.match(lines[0] ?? '', /pause/, stdout);
      assert.ok(!lines.some((line) => /passwd|hostname|vmlinuz|^usr$|^etc$/.test(line)), lines.join('\n'));
    }
  });

  it("use the host's namespaces when the manifest says so", async () => {
    const { stdout } = await host.berth(
      ['run', '-'],
      manifest({ hostNetwork: true, hostPID: true, hostIPC: true, containers: [shellContainer('main', 'for n in net pid ipc uts mnt; do readlink /proc/self/ns/$n; done')] }),
    );
    const seen = linesOf(stdout, 'main');
    const { readlinkSync } = await import('node:fs');
    assert.deepEqual(
      seen.slice(0, 4),
      ['net', 'pid', 'ipc', 'uts'].map((name) => readlinkSync(`/proc/self/ns/${name}`)),
    );
    assert.notEqual(seen[4], readlinkSync('/proc/self/ns/mnt'));
  });
});
