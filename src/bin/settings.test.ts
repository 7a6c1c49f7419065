/** Settings: defaults, what wins over what, where a value came from, and refusals by file, line, key and nearest name. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { decodeAssignments, lineOfKey, nearestName, settingRows } from './settings-decode.ts';
import { schema } from './settings-schema.ts';
import { buildSettings, decodeEnvironment } from './settings.ts';

const defaults = {
  directories: {},
  cri: { streamAddress: '127.0.0.1', streamPort: 0, streamIdleTimeoutMs: 4 * 3_600_000, streamCreationTimeoutMs: 30_000 },
  log: { level: 'info', format: 'json' },
  images: { certsDirs: ['/etc/berth/certs.d', '/etc/containerd/certs.d', '/etc/docker/certs.d'], keepBlobs: true, foreignLayers: false, volumes: 'anonymous' },
  network: { mode: 'bridge', cniConfigDir: '/etc/cni/net.d', cniBinDirs: ['/opt/cni/bin', '/usr/lib/cni'] },
  cdi: { specDirs: ['/etc/cdi', '/var/run/cdi'] },
};

const file = '/etc/berth/config.toml';
const decode = (text: string) => decodeAssignments({ documents: [{ file, text }], env: {} });

test('without variables, and with empty ones, the defaults count', () => {
  assert.deepEqual(decodeEnvironment({}), defaults);
  assert.deepEqual(decodeEnvironment(Object.fromEntries(settingRows.map(({ setting }) => [setting.variable, '']))), defaults);
});

test('every setting has a value in the settings that are built of it', () => {
  const text = `
[directories]
root = "/r/"
run = "/u"
[cri]
socket = "/s"
stream_address = "::1"
stream_port = 65535
stream_idle_timeout = "1h30m"
stream_creation_timeout = "1500ms"
[log]
level = "debug"
format = "text"
[images]
certs_dirs = ["/a", "/b"]
keep_blobs = false
foreign_layers = true
volumes = "tmpfs"
[network]
mode = "cni"
cni_config_dir = "/c"
cni_bin_dirs = ["/d"]
cni_template = "/t"
subnet = "10.1.0.0/16"
mtu = 1400
[cdi]
spec_dirs = []
`;
  assert.deepEqual(buildSettings(decode(text)), {
    directories: { root: '/r', run: '/u' },
    cri: { socket: '/s', streamAddress: '::1', streamPort: 65535, streamIdleTimeoutMs: 5_400_000, streamCreationTimeoutMs: 1500 },
    log: { level: 'debug', format: 'text' },
    images: { certsDirs: ['/a', '/b'], keepBlobs: false, foreignLayers: true, volumes: 'tmpfs' },
    network: { mode: 'cni', cniConfigDir: '/c', cniBinDirs: ['/d'], cniTemplate: '/t', subnet: '10.1.0.0/16', mtu: 1400 },
    cdi: { specDirs: [] },
  });
  // The text names every setting there is, so a setting that nobody builds anything of fails above.
  const { originOf } = decode(text);
  assert.deepEqual(
    settingRows.filter(({ setting }) => originOf(setting).kind === 'default').map(({ key }) => key),
    [],
  );
});

test('a later document wins over an earlier one, a variable over both, an option over all; each value knows its origin', () => {
  const { get, originOf } = decodeAssignments({
    documents: [
      { file: '/a.toml', text: '[log]\nlevel = "error"\nformat = "text"\n[cdi]\nspec_dirs = ["/a"]' },
      { file: '/b.toml', text: '# later\nlog.level = "warn"\ncdi = { spec_dirs = ["/b"] }' },
    ],
    env: { BERTH_LOG_LEVEL: 'info', BERTH_RUN: '/v' },
    flags: new Map([['directories.run', '/f']]),
  });
  assert.deepEqual([get(schema.log.level), originOf(schema.log.level)], ['info', { kind: 'variable', name: 'BERTH_LOG_LEVEL' }]);
  assert.deepEqual([get(schema.log.format), originOf(schema.log.format)], ['text', { kind: 'file', name: '/a.toml', line: 3 }]);
  // A list is replaced as a whole.
  assert.deepEqual([get(schema.cdi.spec_dirs), originOf(schema.cdi.spec_dirs)], [['/b'], { kind: 'file', name: '/b.toml', line: 3 }]);
  assert.deepEqual([get(schema.directories.run), originOf(schema.directories.run)], ['/f', { kind: 'flag', name: '--run' }]);
  assert.deepEqual([get(schema.directories.root), originOf(schema.directories.root)], [undefined, { kind: 'default' }]);
});

test('what is wrong in a document is told with file, line, key and the nearest name', () => {
  const refused: readonly (readonly [string, string])[] = [
    ['[network]\n\nmtuu = 3', 'line 3: network.mtuu: no such setting, did you mean network.mtu?'],
    ['[netwrok]\nmtu = 1400', 'line 1: netwrok: no such setting, did you mean network?'],
    ['netwrok.mtu = 1400', 'line 1: netwrok: no such setting, did you mean network?'],
    ['mtu = 1400', 'line 1: mtu: no such setting, did you mean network.mtu?'],
    ['[network]\nlevel = "info"', 'line 2: network.level: no such setting, did you mean log.level?'],
    ['[network]\nplugin_conf_template = ""', 'line 2: network.plugin_conf_template: no such setting (berth config --default prints all of them)'],
    ['["__proto__"]\nmtu = 3', 'line 1: __proto__: no such setting (berth config --default prints all of them)'],
    ['["\\u0007"]', '"\\u0007": no such setting (berth config --default prints all of them)'],
    ['network = 3', 'line 1: network: must be a table'],
    ['[[network]]\nmtu = 1400', 'line 1: network: must be a table'],
    ['[network]\nmtu = "1400"', 'line 2: network.mtu: must be a whole number from 576 to 65535, not "1400"'],
    ['[network]\nmtu = 575', 'line 2: network.mtu: must be a whole number from 576 to 65535, not 575'],
    ['[network]\nmtu = 1400.5', 'line 2: network.mtu: must be a whole number from 576 to 65535, not 1400.5'],
    ['[network]\nsubnet = "10.88.1.0/16"', 'line 2: network.subnet: must be an IPv4 network with a prefix of 12 to 30 bits, such as "10.88.0.0/16", not "10.88.1.0/16"'],
    ['[network]\nmode = "Bridge"', 'line 2: network.mode: must be one of bridge, cni, none, not "Bridge"'],
    ['[network]\ncni_bin_dirs = "/opt/cni/bin"', 'line 2: network.cni_bin_dirs: must be a list of absolute paths, not "/opt/cni/bin"'],
    ['[network]\ncni_bin_dirs = ["bin"]', 'line 2: network.cni_bin_dirs: must be a list of absolute paths, not "bin"'],
    ['[images]\nkeep_blobs = 1', 'line 2: images.keep_blobs: must be true or false, not 1'],
    ['[cri]\nstream_idle_timeout = 30', 'line 2: cri.stream_idle_timeout: must be a time such as "30s" or "4h", from 1s to 1000h, not 30'],
    ['[cri]\nstream_idle_timeout = "30"', 'line 2: cri.stream_idle_timeout: must be a time such as "30s" or "4h", from 1s to 1000h, not "30"'],
    ['[cri]\nstream_idle_timeout = "0s"', 'line 2: cri.stream_idle_timeout: must be a time such as "30s" or "4h", from 1s to 1000h, not "0s"'],
    ['[cri]\nstream_address = "localhost"', 'line 2: cri.stream_address: must be an IP address, not "localhost"'],
    ['[directories]\nroot = "/a\\nb"', 'line 2: directories.root: must be an absolute path, not "/a\\nb"'],
    ['[log]\nlevel = 2020-01-01', 'line 2: log.level: must be one of error, warn, info, debug, not "2020-01-01"'],
  ];
  for (const [text, message] of refused) assert.throws(() => decode(text), { code: 'invalidArgument', message: `read configuration ${file}: ${message}` });
  // The words behind the place are the parser's.
  assert.throws(() => decode('[log\nlevel = "info"'), { code: 'invalidArgument', message: /^read configuration \/etc\/berth\/config\.toml: line 1, column \d+: [^\n]+$/ });
});

test('other values of variables are refused by the name of their variable, also where an option wins', () => {
  const refused: readonly (readonly [Record<string, string>, string])[] = [
    [{ BERTH_KEEP_BLOBS: 'yes' }, 'BERTH_KEEP_BLOBS: must be 0 or 1, not "yes"'],
    [{ BERTH_FOREIGN_LAYERS: '2' }, 'BERTH_FOREIGN_LAYERS: must be 0 or 1, not "2"'],
    [{ BERTH_IMAGE_VOLUMES: 'bind' }, 'BERTH_IMAGE_VOLUMES: must be one of anonymous, tmpfs, ignore, not "bind"'],
    [{ BERTH_CERTS_DIRS: '/a:b' }, 'BERTH_CERTS_DIRS: must be absolute paths with ":" between them, not "b"'],
    [{ BERTH_STREAM_PORT: '0x10' }, 'BERTH_STREAM_PORT: must be a whole number from 0 to 65535, not "0x10"'],
    [{ BERTH_STREAM_PORT: '65536' }, 'BERTH_STREAM_PORT: must be a whole number from 0 to 65535, not "65536"'],
  ];
  for (const [env, message] of refused) assert.throws(() => decodeEnvironment(env), { code: 'invalidArgument', message });
  assert.throws(() => decodeAssignments({ documents: [], env: { BERTH_RUN: 'run' }, flags: new Map([['directories.run', '/f']]) }), {
    code: 'invalidArgument',
    message: 'BERTH_RUN: must be an absolute path, not "run"',
  });
});

test('variables replace the defaults', () => {
  assert.deepEqual(decodeEnvironment({ BERTH_CERTS_DIRS: '/a:/b', BERTH_KEEP_BLOBS: '0', BERTH_FOREIGN_LAYERS: '1', BERTH_IMAGE_VOLUMES: 'tmpfs' }).images, {
    certsDirs: ['/a', '/b'],
    keepBlobs: false,
    foreignLayers: true,
    volumes: 'tmpfs',
  });
});

test('every value that is printed is read back as the same', () => {
  for (const { table, key, setting } of settingRows) {
    if (setting.fallback === undefined) continue;
    const { get } = decode(`[${table}]\n${key} = ${setting.kind.format(setting.fallback)}`);
    assert.deepEqual(get(setting), setting.fallback, `${table}.${key}`);
  }
  for (const [text, ms] of [
    ['1h30m', 5_400_000],
    ['2s1ms', 2001],
    ['1000h', 3_600_000_000],
  ] as const) {
    assert.equal(decode(`cri.stream_idle_timeout = "${text}"`).get(schema.cri.stream_idle_timeout), ms);
    assert.equal(schema.cri.stream_idle_timeout.kind.format(ms), `"${text}"`);
  }
});

test('variables and keys are named once', () => {
  const variables = settingRows.map(({ setting }) => setting.variable);
  assert.equal(new Set(variables).size, variables.length);
  assert.ok(variables.every((name) => /^BERTH_[A-Z_]+$/.test(name)));
});

test('the nearest name is one of a few letters away, and nothing where all are far', () => {
  const names = ['network.mtu', 'network.mode', 'log.level'];
  assert.equal(nearestName('network.mdoe', names), 'network.mode');
  assert.equal(nearestName('cri.level', names), 'log.level');
  assert.equal(nearestName('something.else', names), undefined);
  assert.equal(nearestName('x'.repeat(100_000), names), undefined);
});

test('keys are found in tables, behind dots, in inline tables, and not in comments', () => {
  const text = '# [log]\na.b = 1\n[log] # here\n# level = 1\n"level" = 2\n[ network ]\nmtu=3\ncdi = { x = 1 }';
  assert.deepEqual(
    ['a.b', 'log.level', 'network.mtu', 'network.cdi.x', 'log', 'cdi.spec_dirs'].map((key) => lineOfKey(text, key)),
    [2, 5, 7, 8, 3, undefined],
  );
});

test('the documentation has every setting with its default and its variable, and no other', () => {
  const text = readFileSync(new URL('../../docs/configuration.md', import.meta.url), 'utf8');
  const documented = [...text.matchAll(/^\| `([a-z_]+\.[a-z_]+)` \| (.*?) \| `(BERTH_[A-Z_]+)`/gm)].map(([, key = '', fallback = '', variable = '']) => ({
    key,
    fallback,
    variable,
  }));
  assert.deepEqual(
    documented.map(({ key, variable }) => [key, variable]),
    settingRows.map(({ table, key, setting }) => [`${table}.${key}`, setting.variable]),
  );
  for (const { table, key, setting } of settingRows) {
    if (setting.fallback === undefined) continue;
    assert.equal(documented.find((row) => row.key === `${table}.${key}`)?.fallback, `\`${setting.kind.format(setting.fallback)}\``, key);
  }
});

test('the unit starts what there is and leaves pods alone', () => {
  const unit = readFileSync(new URL('../../packaging/berth.service', import.meta.url), 'utf8');
  for (const line of ['ExecStart=/opt/berth/bin/berth daemon', 'ExecReload=/bin/kill -HUP $MAINPID', 'KillMode=process', 'Delegate=yes', 'Type=exec', 'OOMScoreAdjust=-999'])
    assert.ok(unit.split('\n').includes(line), line);
});
