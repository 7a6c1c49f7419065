/** Images as volumes, and the volumes that images declare: what a container sees of them. Few runs, for they also happen on an emulated kernel. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { BerthHost, manifest, shellContainer, skipReason } from './berth-host.ts';
import { data, dataVolume, importImages, linesOf, mount, owned, runDeclaring } from './volume-host.ts';

describe('volumes from images', { skip: skipReason() }, () => {
  let host: BerthHost;
  before(async () => {
    host = await BerthHost.open();
    await importImages(host, [
      { name: 'declares', script: owned, volumes: ['/data', 'plain', '/missing/deep', '/etc'] },
      {
        name: 'sly',
        script: 'ln -s /proc linked-proc; ln -s ../../../../../../../tmp outside; ln -s /no/where dangling',
        volumes: ['/proc', '/proc/sys/kernel', '/sys/fs/cgroup', '/dev', '/linked-proc', '/linked-proc/self', '/outside/made', '/dangling'],
      },
    ]);
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  it('show the merged layers to several containers, whole or in part, read-only and without devices and set-user-id', async () => {
    const look = `exec 2>&1; ls /data/models /linked; cat /part/b /file /up/passwd; touch /data/x; cat /data/bin/device; /data/bin/tool; grep -E '^[0-9 ]+[^ ]+ [^ ]+ /(data|file) ' /proc/self/mountinfo`;
    const volumeMounts = [mount('/data'), mount('/part', 'models/deep'), mount('/file', 'models/c'), mount('/linked', 'absolute'), mount('/up', 'up')];
    const one = shellContainer('one', `${look}; until [ -e /signs/seen ]; do sleep 0.05; done`, { volumeMounts: [...volumeMounts, { name: 'signs', mountPath: '/signs' }] });
    const two = shellContainer('two', 'cat /d/a; touch /signs/seen', { volumeMounts: [mount('/d', 'models'), { name: 'signs', mountPath: '/signs' }] });
    const run = host.start(['run', '-'], manifest({ volumes: [dataVolume, { name: 'signs' }], containers: [one, two] }));
    await run.untilOutput('one | a');
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
    assert.ok(!mounts.includes(`${host.directory}/run/rootfs`) && !mounts.includes('lowerdir=2:1:'), mounts);
    const { status, stdout, stderr } = await run.finished;
    assert.equal(status, 0, stdout + stderr);
    const lines = linesOf(stdout, 'one');
    assert.deepEqual(lines.slice(0, 9), ['/data/models:', 'a', 'c', 'deep', '', '/linked:', 'a', 'c', 'deep'], stdout);
    assert.deepEqual(lines.slice(9, 12), ['b', 'c', 'of-the-image']);
    assert.match(lines[12] ?? '', /\/data\/x: Read-only file system/);
    assert.match(lines[13] ?? '', /\/data\/bin\/device.*Permission denied/);
    assert.equal(lines[14], 'executed');
    for (const line of lines.slice(15, 17)) assert.match(line, / ro,nosuid,nodev,relatime - overlay /);
    assert.deepEqual(linesOf(stdout, 'two'), ['a']);
  });

  it('do not begin to run without the part that is asked for, and say which', async () => {
    const { status, stderr } = await host.berth(
      ['run', '-'],
      manifest({ volumes: [dataVolume], containers: [shellContainer('one', 'true', { volumeMounts: [mount('/data', 'proc-link/self')] })] }),
    );
    assert.equal(status, 1);
    assert.match(
      stderr,
      new RegExp(`^berth: create container one in pod pod: ImageVolumeMountFailed: config.mounts\\[0\\].image_sub_path: the image "${data}" has no "proc-link/self"$`, 'm'),
    );
    await host.assertNoRemains();
  });

  it('are directories of the container where its image declares them: filled with owner and mode, writable, gone with it', async () => {
    const { lines, stdout, stderr } = await runDeclaring(
      host,
      'declares',
      'stat -c "%u:%g %a %F" /data /data/inner/file /data/link; cat /data/link; ls -A /data; echo x > /data/new && echo x > /plain/new && echo x > /missing/deep/new && echo written; touch /no 2>&1; grep -c " /etc/hosts " /proc/self/mountinfo; hostname',
    );
    assert.deepEqual(
      lines,
      [
        '1234:2345 2750 directory',
        '1234:2345 600 regular file',
        '1234:2345 777 symbolic link',
        'kept',
        'inner',
        'link',
        'written',
        'touch: /no: Read-only file system',
        '1',
        'pod',
      ],
      stdout + stderr,
    );
    await host.assertNoRemains();
  });

  it('are memory where the engine is told so', async () => {
    process.env['BERTH_IMAGE_VOLUMES'] = 'tmpfs';
    try {
      const script = `cat /data/inner/file; stat -c "%u:%g %a" /data; grep -E "^[0-9 ]+[^ ]+ [^ ]+ /data " /proc/self/mountinfo | sed "s/.* - \\([a-z0-9]*\\) .*/\\1/"; echo x > /data/x`;
      const { lines, status, stdout, stderr } = await runDeclaring(host, 'declares', script);
      assert.deepEqual([status, lines], [0, ['kept', '1234:2345 2750', 'tmpfs']], stdout + stderr);
    } finally {
      delete process.env['BERTH_IMAGE_VOLUMES'];
    }
  });

  it('reach nothing outside of the root, whatever they are named or linked to', async () => {
    // On the runtime's own file systems they are left out or covered; those through links stay inside.
    const { lines, stdout, stderr, status } = await runDeclaring(
      host,
      'sly',
      'ls -d /proc/self/status /dev/null /sys/kernel; ls -A /tmp /no; exec ls -A /proc/sys/kernel/hostname',
    );
    assert.equal(status, 0, stdout + stderr);
    assert.deepEqual(lines, ['/dev/null', '/proc/self/status', '/sys/kernel', '/no:', 'where', '', '/tmp:', 'made', '/proc/sys/kernel/hostname']);
    assert.ok(!existsSync('/tmp/made') && !existsSync('/no/where'));
  });
});
