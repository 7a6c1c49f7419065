/**
 * Mounts of the OCI runtime, as the container's own mountinfo tells them: every documented option, new file systems, binds of files and directories, what covers procfs, the root itself.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type MountInfo, decodeMountInfo } from '#system';
import { type OciDocument, OciHost, skipReason } from './oci-host.ts';

const skip = skipReason();
type Mount = OciDocument['mounts'][number];

describe('mounts', { skip }, () => {
  let host: OciHost;
  let source: string;
  before(() => {
    host = new OciHost();
    source = `${host.directory}/source`;
    // Flags of the host's own mount would be those of every bind.
    mkdirSync(source);
    execFileSync('mount', ['-t', 'tmpfs', 'source', source]);
    mkdirSync(`${source}/below`);
    writeFileSync(`${source}/file`, 'from the host\n');
  });
  after(async () => {
    execFileSync('umount', [source]);
    await host[Symbol.asyncDispose]();
  });

  const add =
    (...mounts: readonly Mount[]) =>
    (document: OciDocument): void => {
      document.mounts.push(...mounts);
    };
  const bind = (destination: string, options: readonly string[], from = source): Mount => ({ destination, type: 'none', source: from, options });

  /** The mounts that the container sees, and what its script printed. */
  async function look(
    change: (document: OciDocument) => void,
    script = 'true',
    call: readonly string[] = [],
  ): Promise<{ readonly mounts: readonly MountInfo[]; readonly output: string }> {
    const bundle = host.makeBundle(['sh', '-c', `cat /proc/self/mountinfo; echo =====; ${script}`], change);
    const { status, stdout, stderr } = await host.call(['run', '--bundle', bundle, ...call, host.newId()]);
    assert.equal(status, 0, stderr);
    const [info = '', output = ''] = stdout.split('=====\n');
    return { mounts: decodeMountInfo(info), output };
  }
  const at = (mounts: readonly MountInfo[], mountpoint: string): MountInfo => {
    const found = mounts.findLast((mount) => mount.mountpoint === mountpoint);
    assert.ok(found !== undefined, `nothing is mounted at ${mountpoint}`);
    return found;
  };

  test('every word for the mount itself', async () => {
    const words = ['ro', 'nosuid', 'nodev', 'noexec', 'noatime', 'nodiratime', 'nosymfollow'];
    const { mounts } = await look(
      add(
        ...words.map((word) => bind(`/one/${word}`, ['bind', word])),
        bind('/strict', ['bind', 'strictatime']),
        bind('/relative', ['bind', 'noatime', 'relatime']),
        bind('/all', ['bind', ...words]),
        // What says nothing of a bind, or takes a word back.
        bind('/none', [
          'defaults',
          'bind',
          ...words,
          'rw',
          'suid',
          'dev',
          'exec',
          'atime',
          'diratime',
          'symfollow',
          'sync',
          'dirsync',
          'async',
          'lazytime',
          'mand',
          'iversion',
          'silent',
          'loud',
        ]),
      ),
    );
    for (const word of words)
      assert.deepEqual(
        at(mounts, `/one/${word}`).options.filter((option) => words.includes(option)),
        [word],
      );
    assert.deepEqual(at(mounts, '/all').options.toSorted(), [...words].toSorted());
    assert.deepEqual(at(mounts, '/none').options, ['rw', 'relatime']);
    assert.ok(!at(mounts, '/strict').options.some((option) => option.endsWith('atime')));
    assert.ok(at(mounts, '/relative').options.includes('relatime'));
  });

  test('words with r reach what is mounted below, those without do not', async () => {
    execFileSync('mount', ['-t', 'tmpfs', 'below', `${source}/below`]);
    try {
      const words = ['ro', 'nosuid', 'nodev', 'noexec', 'noatime', 'nodiratime', 'nosymfollow'];
      const { mounts } = await look(
        add(bind('/r', ['rbind', ...words.map((word) => `r${word}`)]), bind('/flat', ['rbind', ...words]), bind('/alone', ['bind', 'rro']), bind('/back', ['rbind', 'rro', 'rrw'])),
      );
      assert.deepEqual(at(mounts, '/r/below').options.toSorted(), [...words].toSorted());
      assert.deepEqual([at(mounts, '/flat').options.includes('ro'), at(mounts, '/flat/below').options], [true, ['rw', 'relatime']]);
      assert.ok(at(mounts, '/alone').options.includes('ro'));
      assert.ok(!mounts.some(({ mountpoint }) => mountpoint === '/alone/below'));
      assert.ok(at(mounts, '/back/below').options.includes('rw'));
    } finally {
      execFileSync('umount', [`${source}/below`]);
    }
  });

  test('every word of propagation', async () => {
    const { mounts } = await look(
      add(
        ...['private', 'rprivate', 'slave', 'rslave', 'shared', 'rshared', 'unbindable', 'runbindable'].map((word) =>
          bind(`/${word}`, [word.startsWith('r') ? 'rbind' : 'bind', word]),
        ),
        {
          destination: '/memory',
          type: 'tmpfs',
          options: ['shared'],
        },
      ),
    );
    const kind = (mountpoint: string): string =>
      at(mounts, mountpoint)
        .optional.map((field) => field.replace(/:.*/, ''))
        .join();
    assert.deepEqual(['/private', '/rprivate', '/shared', '/rshared', '/unbindable', '/runbindable', '/memory'].map(kind), [
      '',
      '',
      'shared',
      'shared',
      'unbindable',
      'unbindable',
      'shared',
    ]);
    // A slave has a master where the source's mount is shared, which differs between machines.
    const root = decodeMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')).findLast(({ mountpoint }) => `${source}/`.startsWith(mountpoint === '/' ? '/' : `${mountpoint}/`));
    const isShared = root?.optional.some((field) => field.startsWith('shared:')) === true;
    assert.deepEqual([kind('/slave'), kind('/rslave')], isShared ? ['master', 'master'] : ['', '']);
  });

  test('new file systems: their words, the mode of what they cover, what is copied up, read-only', async () => {
    const bundle = (document: OciDocument): void => {
      add(
        { destination: '/tmp', type: 'tmpfs', source: 'tmpfs' },
        { destination: '/srv/web', type: 'tmpfs', source: 'up', options: ['tmpcopyup', 'ro', 'nosuid', 'size=64k'] },
        { destination: '/data', type: 'tmpfs', options: ['mode=0700', 'sync', 'lazytime', 'silent', 'nodev'] },
        { destination: '/made/here', type: 'tmpfs' },
      )(document);
    };
    const id = host.newId();
    const directory = host.makeBundle(['sh', '-c', 'stat -c "%a %n" /tmp /srv/web /data; cat /srv/web/old; touch /srv/web/new 2>&1; cat /proc/self/mountinfo'], bundle);
    chmodSync(`${directory}/rootfs/tmp`, 0o1777);
    chmodSync(`${directory}/rootfs/srv/web`, 0o751);
    writeFileSync(`${directory}/rootfs/srv/web/old`, 'from the image\n');
    const { status, stdout, stderr } = await host.call(['run', '--bundle', directory, id]);
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^1777 \/tmp\n751 \/srv\/web\n700 \/data\nfrom the image\ntouch: \/srv\/web\/new: Read-only file system\n/);
    const mounts = decodeMountInfo(stdout);
    assert.deepEqual(
      [at(mounts, '/srv/web').source, at(mounts, '/srv/web').options.includes('nosuid'), at(mounts, '/srv/web').superOptions.includes('size=64k')],
      ['up', true, true],
    );
    for (const word of ['sync', 'lazytime']) assert.ok(at(mounts, '/data').superOptions.includes(word), word);
    assert.equal(at(mounts, '/made/here').type, 'tmpfs');
  });

  test('a remount changes the flags of what is there', async () => {
    const { mounts } = await look(
      add(
        bind('/a', ['bind', 'noexec']),
        { destination: '/a', options: ['remount', 'bind', 'ro', 'exec', 'nosuid'] },
        { destination: '/dev/shm', type: 'tmpfs', options: ['remount', 'ro'] },
      ),
    );
    assert.deepEqual(at(mounts, '/a').options.toSorted(), ['nosuid', 'relatime', 'ro']);
    assert.ok(at(mounts, '/dev/shm').options.includes('ro'));
    assert.match((await host.run(['true'], add({ destination: '/data', options: ['remount', 'bind', 'ro'] }))).stderr, /\/mounts\/7: set mount attributes of \/data .*: EINVAL/);
    assert.match(
      (await host.run(['true'], add({ destination: '/dev', options: ['remount', 'size=1k'] }))).stderr,
      /mounts\[7\]\.options: the option \\?"size=1k\\?" cannot be changed by a remount, only those of the mount itself/,
    );
  });

  test('binds of files and directories, onto what is there and what is missing, through links that stay inside', async () => {
    const directory = host.makeBundle(
      ['sh', '-c', 'cat /etc/passwd /new/file /inner/etc/file; ls /data'],
      add(bind('/etc/passwd', ['bind'], `${source}/file`), bind('/new/file', ['bind'], `${source}/file`), bind('/link/file', ['bind'], `${source}/file`), bind('/data', ['rbind'])),
    );
    // Absolute, so that followed on the host it would lead out of the root.
    symlinkSync('/inner/etc', `${directory}/rootfs/link`);
    const { status, stdout, stderr } = await host.call(['run', '--bundle', directory, host.newId()]);
    assert.equal(status, 0, stderr);
    assert.equal(stdout, 'from the host\n'.repeat(3) + 'below\nfile\n');
    assert.match(
      (await host.run(['true'], add(bind('/x', ['bind'], `${source}/missing`)))).stderr,
      /\/mounts\/7: clone the mount at \/run\/.*\/source\/missing into slot \d+: ENOENT/,
    );
    assert.match((await host.run(['true'], add(bind('/etc', ['bind'], `${source}/file`)))).stderr, /\/mounts\/7: attach .*: EISDIR/);
    assert.match((await host.run(['true'], add(bind('/etc/passwd', ['bind'])))).stderr, /\/mounts\/7: attach .*: ENOTDIR/);
    // A relative source is in the bundle.
    const relative = host.makeBundle(['cat', '/x'], add(bind('/x', ['bind'], 'config.json')));
    assert.equal(JSON.parse(await host.ok(['run', '--bundle', relative, host.newId()])).ociVersion, '1.2.0');
  });

  test('files of procfs can be covered, nothing else of it', async () => {
    const { output } = await look(
      add(bind('/proc/cpuinfo', ['bind'], `${source}/file`), bind('/proc/sys/kernel/ns_last_pid', ['bind'], `${source}/file`)),
      'cat /proc/cpuinfo /proc/sys/kernel/ns_last_pid',
    );
    assert.equal(output, 'from the host\n'.repeat(2));
    for (const mount of [
      bind('/proc/self/status', ['bind'], `${source}/file`),
      bind('/proc/sys', ['rbind']),
      { destination: '/proc/acpi', type: 'tmpfs' },
      { destination: '/proc', type: 'tmpfs' },
    ])
      assert.match((await host.run(['true'], add(mount))).stderr, /mounts\[7\]\.destination: (nothing may be mounted on .* inside of procfs|only procfs may be mounted on \/proc)/);
    // A link of the image that leads there.
    const directory = host.makeBundle(['true'], add(bind('/link/status', ['bind'], `${source}/file`)));
    symlinkSync('/proc/1', `${directory}/rootfs/link`);
    assert.match(await host.fails(['run', '--bundle', directory, host.newId()]), /\/mounts\/7: attach .*: EPERM/);
  });

  test('control groups, with and without a namespace of their own', async () => {
    for (const own of [true, false]) {
      const { mounts, output } = await look((document) => {
        if (!own) document.linux.namespaces = document.linux.namespaces.filter(({ type }) => type !== 'cgroup');
      }, 'cat /proc/self/cgroup; ls /sys/fs/cgroup');
      assert.ok(at(mounts, '/sys/fs/cgroup').options.includes('ro'));
      assert.equal(/^\d+:(?:devices)?:(.*)$/m.exec(output)?.[1] === '/', own, output);
      if (at(mounts, '/sys/fs/cgroup').type !== 'tmpfs') continue;
      const views = mounts.filter(({ mountpoint }) => mountpoint.startsWith('/sys/fs/cgroup/'));
      assert.ok(views.length > 3);
      for (const { root, type } of views) assert.ok(type.startsWith('cgroup') && (own ? root === '/' : root.startsWith('/berth-oci-test/')), root);
    }
  });

  test('owners that are mapped', async () => {
    // Not in memory, where older kernels map nothing.
    const directory = mkdtempSync('/var/tmp/berth-oci-mounts-');
    try {
      chmodSync(directory, 0o755);
      writeFileSync(`${directory}/file`, '');
      chownSync(`${directory}/file`, 1000, 2000);
      const mappings = (hostID: number): readonly object[] => [{ containerID: 1000, hostID, size: 2000 }];
      const { output } = await look(
        add(
          { ...bind('/one', ['bind', 'idmap'], directory), uidMappings: mappings(5000), gidMappings: mappings(6000) },
          { ...bind('/two', ['rbind', 'ridmap'], directory), uidMappings: mappings(7000), gidMappings: mappings(8000) },
          { ...bind('/three', ['bind'], directory), uidMappings: mappings(5000), gidMappings: mappings(6000) },
        ),
        'stat -c %u:%g /one/file /two/file /three/file',
      );
      assert.equal(output, '5000:7000\n7000:9000\n5000:7000\n');
    } finally {
      rmSync(directory, { recursive: true });
    }
    for (const [mount, message] of [
      [{ ...bind('/x', ['bind']), uidMappings: [{ containerID: 0, hostID: 0, size: 1 }] }, /mounts\[7\]\.gidMappings: required/],
      [bind('/x', ['bind', 'idmap']), /mounts\[7\]\.uidMappings: required where the container has no user namespace/],
      [{ destination: '/x', type: 'tmpfs', options: ['idmap'] }, /mounts\[7\]\.uidMappings: not supported \(only binds are mapped\)/],
    ] as const)
      assert.match((await host.run(['true'], add(mount))).stderr, message);
  });

  test('the root: read-only, its propagation, without a pivot', async () => {
    const first = async (change: (document: OciDocument) => void, call: readonly string[] = []): Promise<MountInfo> => at((await look(change, 'true', call)).mounts, '/');
    assert.ok((await first((document) => (document.root.readonly = true))).options.includes('ro'));
    for (const [word, kind] of [
      ['shared', 'shared'],
      ['rshared', 'shared'],
      ['unbindable', 'unbindable'],
      ['runbindable', 'unbindable'],
      ['private', ''],
    ] as const)
      assert.equal((await first((document) => (document.linux['rootfsPropagation'] = word))).optional.map((field) => field.replace(/:.*/, '')).join(), kind, word);
    const { mounts, output } = await look(() => undefined, 'ls /; ls /proc | grep -c "^[0-9]*$"', ['--no-pivot']);
    assert.match(output, /^bin\ndata\ndev\netc\nproc\nroot\nsrv\nsys\ntmp\n[1-4]\n$/);
    assert.ok(at(mounts, '/').root.endsWith('/rootfs'));
    assert.match(
      await host.fails(['run', '--no-pivot', '--bundle', host.makeBundle(['true'], (document) => (document.linux['rootfsPropagation'] = 'private')), host.newId()]),
      /linux\.rootfsPropagation: private is not safe without a pivot/,
    );
  });

  const refusals: readonly (readonly [mount: Mount, message: RegExp])[] = [
    [{ destination: 'relative', type: 'tmpfs' }, /mounts\[7\]\.destination: must be an absolute path, not \\?"relative\\?"/],
    [{ destination: '/a/../b', type: 'tmpfs' }, /mounts\[7\]\.destination: must not contain \\?"\.\.\\?"/],
    [{ destination: '/', type: 'tmpfs' }, /mounts\[7\]\.destination: must not be the root/],
    [{ destination: '/x' }, /mounts\[7\]\.type: required unless the mount is a bind/],
    [{ destination: '/x', type: 'bind', options: ['bind'] }, /mounts\[7\]\.source: required for a bind mount/],
    [{ destination: '/x', type: 'bind', source: '/', options: ['bind', 'size=1k', 'roo'] }, /mounts\[7\]\.options: unknown option \\?"roo\\?" for a bind mount/],
    [{ destination: '/x', type: 'nofs' }, /\/mounts\/7: create a nofs file system .*: ENODEV/],
    [{ destination: '/x', type: 'tmpfs', options: ['no-such-option'] }, /\/mounts\/7: create a tmpfs file system .*: EINVAL \(tmpfs: Unknown parameter/],
  ];
  for (const [mount, message] of refusals) test(`refuses ${JSON.stringify(mount)}`, async () => assert.match((await host.run(['true'], add(mount))).stderr, message));
});
