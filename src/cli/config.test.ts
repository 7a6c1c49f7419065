/** `berth config` over a double: what is printed, in which form, and what the options ask for. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ConfigurationRequest, ConfigurationView, SettingDescription } from './dependencies.ts';
import { runDouble } from './doubles.ts';

const view: ConfigurationView = {
  files: ['/etc/berth/config.toml', '/etc/berth/config.d/\u001b.toml'],
  entries: [
    { table: 'directories', key: 'root', value: undefined, origin: 'default' },
    { table: 'log', key: 'level', value: 'debug', toml: '"debug"', origin: '/etc/berth/config.toml:2' },
    { table: 'log', key: 'format', value: 'json', toml: '"json"', origin: 'default' },
    { table: 'network', key: 'mtu', value: undefined, origin: 'default' },
  ],
};
const settings: readonly SettingDescription[] = [
  { table: 'log', key: 'level', help: 'How much is said.', words: 'one of a, b', variable: 'BERTH_LOG_LEVEL', flag: '--debug', toml: '"a"', needsRestart: false },
  { table: 'log', key: 'mtu', help: `Long ${'words '.repeat(30)}end.`, words: 'a number', variable: 'BERTH_MTU', fallbackWords: "the kernel's", needsRestart: true },
];

async function run(argv: readonly string[], requests: ConfigurationRequest[] = []) {
  const load = (request: ConfigurationRequest): ConfigurationView => {
    requests.push(request);
    return view;
  };
  return runDouble(argv, { overrides: { configuration: { load, describe: () => settings } } });
}

test('prints TOML with the origin behind each value; directories that nothing names are those that hold', async () => {
  const { status, stdout, calls } = await run(['config']);
  assert.equal(status, 0);
  assert.equal(
    stdout,
    `# /etc/berth/config.toml
# /etc/berth/config.d/\\x1b.toml

[directories]
root = "/var/lib/berth"  # default

[log]
level = "debug"  # /etc/berth/config.toml:2
format = "json"  # default

[network]
# mtu =  # default
`,
  );
  assert.deepEqual(calls, [], 'no engine is opened');
});

test('prints JSON with null for what has no value', async () => {
  const { stdout } = await run(['config', '--output', 'json']);
  assert.deepEqual(JSON.parse(stdout), {
    files: view.files,
    settings: {
      directories: { root: { value: '/var/lib/berth', origin: 'default' } },
      log: { level: { value: 'debug', origin: '/etc/berth/config.toml:2' }, format: { value: 'json', origin: 'default' } },
      network: { mtu: { value: null, origin: 'default' } },
    },
  });
});

test('--check prints nothing', async () => {
  assert.deepEqual(await run(['config', '--check']).then(({ status, stdout, stderr }) => [status, stdout, stderr]), [0, '', '']);
});

test('--default prints a file of comments alone, without reading any', async () => {
  const requests: ConfigurationRequest[] = [];
  const { stdout } = await run(['config', '--default'], requests);
  assert.deepEqual(requests, []);
  const lines = stdout.trimEnd().split('\n');
  assert.ok(
    lines.every((line) => line === '' || line.startsWith('#') || line === '[log]'),
    stdout,
  );
  assert.ok(lines.every((line) => line.length <= 120));
  assert.ok(stdout.includes('# How much is said.\n# One of a, b. Variable: BERTH_LOG_LEVEL. Option: --debug. Taken over by a reload.\n# level = "a"\n'));
  assert.ok(stdout.endsWith("# A number. Variable: BERTH_MTU. Without it: the kernel's.\n# mtu =\n"));
});

test('options become a request, with absolute paths', async () => {
  const requests: ConfigurationRequest[] = [];
  await run(['config', '--config', 'c.toml', '--root', 'r/', '--run', '/run/x', '--debug'], requests);
  await run(['ps', '--config', '/c.toml'], requests);
  assert.deepEqual(requests, [{ file: '/work/c.toml', rootDirectory: '/work/r', runDirectory: '/run/x', debug: true }, { file: '/c.toml' }]);
});

test('a configuration that names directories decides where the engine is, and options win over it', async () => {
  const overrides = { configuration: { load: () => ({ ...view, rootDirectory: '/a', runDirectory: '/b', socketPath: '/s' }), describe: () => settings } };
  assert.deepEqual((await runDouble(['ps'], { overrides })).calls.slice(0, 1), ['open /a /b']);
  assert.deepEqual((await runDouble(['ps', '--run', '/c'], { overrides })).calls.slice(0, 1), ['open /a /c']);
  assert.deepEqual((await runDouble(['daemon'], { overrides })).calls, ['daemon /s']);
});

test('a mistake is one line and status 1, and wrong words are status 2', async () => {
  const load = (): never => {
    throw new Error('read configuration /c: line 1: x: no such setting');
  };
  const broken = await runDouble(['config', '--check'], { overrides: { configuration: { load, describe: () => [] } } });
  assert.deepEqual([broken.status, broken.stdout, broken.stderr], [1, '', 'berth: read configuration /c: line 1: x: no such setting\n']);
  const both = await run(['config', '--check', '--default']);
  assert.deepEqual([both.status, both.stderr], [2, "berth: option '--default' cannot be used with option '--check'\n"]);
  const json = await run(['config', '--default', '--output', 'json']);
  assert.deepEqual([json.status, json.stderr], [2, 'berth: --default is a TOML file; it has no --output json\n']);
});
