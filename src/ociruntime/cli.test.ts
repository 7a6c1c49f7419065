/** Command lines as callers of runc write them, and what is told where one is wrong. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { decodeOpening, decodeRequest } from './cli.ts';
import type { Command } from './options.ts';
import type { FrontRequest } from './types.ts';

const surroundings = { version: '9.9.9', userId: 0 };

function requestOf(argv: readonly string[], env: Readonly<Record<string, string>> = {}): FrontRequest {
  return { argv, cwd: '/work/dir', env, terminals: { stdin: false, stdout: false, stderr: false }, size: { columns: 0, rows: 0 }, pid: 4711 };
}

function commandOf(...argv: string[]): Command {
  const decoded = decodeRequest(argv, requestOf(argv), surroundings);
  assert.equal(decoded.kind, 'command', JSON.stringify(decoded));
  return decoded.kind === 'command' ? decoded.decode() : assert.fail();
}

function misuseOf(...argv: string[]): { readonly text: string; readonly message: string; readonly code: number } {
  const decoded = decodeRequest(argv, requestOf(argv), surroundings);
  return decoded.kind === 'misuse' ? decoded : assert.fail(JSON.stringify(decoded));
}

describe('before the command', () => {
  const openingOf = (argv: readonly string[], env?: Readonly<Record<string, string>>, userId = 0): ReturnType<typeof decodeOpening> =>
    decodeOpening(requestOf(argv, env), { ...surroundings, userId });

  test('containerd writes its flags in front of the command', () => {
    assert.deepEqual(openingOf(['--root', '/run/x/', '--log', 'log.json', '--log-format=json', 'state', 'web']), {
      kind: 'globals',
      globals: { stateRoot: '/run/x', debug: false, logFile: '/work/dir/log.json', logFormat: 'json', rootIsGiven: true },
      words: ['state', 'web'],
    });
  });

  test('a user other than root has a state root of its own', () => {
    const opening = openingOf(['list'], { XDG_RUNTIME_DIR: '/run/user/7' }, 7);
    assert.equal(opening.kind === 'globals' && opening.globals.stateRoot, '/run/user/7/berth-oci');
    const ofRoot = openingOf(['list'], { XDG_RUNTIME_DIR: '/run/user/0' });
    assert.equal(ofRoot.kind === 'globals' && ofRoot.globals.stateRoot, '/run/berth-oci');
  });

  test('the version names the program and the specification', () => {
    assert.deepEqual(openingOf(['-v']), { kind: 'print', text: 'berth-oci version 9.9.9\nspec: 1.3.0\n' });
  });

  test('an unknown flag is told with the help', () => {
    const opening = openingOf(['--colour']);
    assert.ok(opening.kind === 'misuse');
    assert.equal(opening.message, 'flag provided but not defined: -colour');
    assert.match(opening.text, /^Incorrect Usage\. flag provided but not defined: -colour\n\nNAME:\n {3}berth-oci - /);
    assert.equal(opening.code, 1);
  });

  for (const [argv, code, message] of [
    [['--root', '/', 'list'], 'invalidArgument', 'Option --root argument should not be set to /'],
    [['--log-format', 'xml', 'list'], 'invalidArgument', 'invalid log-format: xml'],
    [['--systemd-cgroup', 'list'], 'unimplemented', '--systemd-cgroup is not supported: control groups are made directly, with a cgroupsPath that is a path'],
    [['--rootless', 'true', 'list'], 'unimplemented', '--rootless true is not supported: containers are made by root'],
  ] as const)
    test(`refused: ${argv.join(' ')}`, () => {
      assert.throws(() => openingOf(argv), { code, message });
    });
});

describe('commands', () => {
  test('create takes flags before and behind the id; paths are of the caller', () => {
    const options = { id: 'web', bundle: '/b', consoleSocket: '/b/tty.sock', pidFile: '/work/dir/pid', preserveFds: 2, noPivot: true, noNewKeyring: false };
    assert.deepEqual(commandOf('create', '-b', '/b', '--console-socket', 'tty.sock', 'web', '--pid-file=pid', '--preserve-fds', '2', '--no-pivot'), { name: 'create', options });
  });

  test('run has the bundle of the current directory unless told otherwise', () => {
    const command = commandOf('run', '--detach', '--keep=false', 'web');
    assert.ok(command.name === 'run');
    assert.equal(command.options.bundle, '/work/dir');
    assert.equal(command.options.detach, true);
    assert.equal(command.options.keep, false);
  });

  test('the words of exec are left to its program', () => {
    const command = commandOf('exec', '-e', 'A=b', '-e', 'C=d', '-u', '7:8', '-g', '9', '--cap', 'CAP_KILL', 'web', 'ls', '-t', '--cwd', '/x');
    assert.ok(command.name === 'exec' && command.options.process.kind === 'changes');
    const { args, env, user, additionalGids, caps, tty, cwd } = command.options.process.changes;
    assert.deepEqual(
      { args, env, user, additionalGids, caps, tty, cwd },
      {
        args: ['ls', '-t', '--cwd', '/x'],
        env: ['A=b', 'C=d'],
        user: { uid: 7, gid: 8 },
        additionalGids: [9],
        caps: ['CAP_KILL'],
        tty: false,
        cwd: '',
      },
    );
  });

  test('exec takes a file with a process instead of words', () => {
    const command = commandOf('exec', '-d', '-p', 'p.json', 'web');
    assert.deepEqual(command.name === 'exec' && command.options.process, { kind: 'file', path: '/work/dir/p.json' });
  });

  test('groups of exec are by controller, or one path', () => {
    const of = (...flags: string[]): unknown => {
      const command = commandOf('exec', ...flags.flatMap((flag) => ['--cgroup', flag]), 'web', 'ls');
      return command.name === 'exec' && [...command.options.cgroups];
    };
    assert.deepEqual(of('sub'), [['', 'sub']]);
    assert.deepEqual(of('cpu,memory:a', 'pids:b'), [
      ['cpu', 'a'],
      ['memory', 'a'],
      ['pids', 'b'],
    ]);
    assert.throws(() => of('a', 'b'), { code: 'invalidArgument', message: 'invalid --cgroup argument: a (missing <controller>: prefix)' });
    assert.throws(() => of('cpu:a', 'cpu:b'), { code: 'invalidArgument', message: 'invalid --cgroup argument(s): controller cpu specified multiple times' });
  });

  test('signals are names in any form, or numbers', () => {
    for (const [word, signal] of [
      ['9', 9],
      ['KILL', 9],
      ['sigusr1', 10],
      ['SIGWINCH', 28],
      ['37', 37],
      ['0', 0],
    ] as const) {
      const command = commandOf('kill', 'web', word);
      assert.equal(command.name === 'kill' && command.options.signal, signal, word);
    }
    assert.deepEqual(commandOf('kill', 'web', '--all', 'KILL'), { name: 'kill', options: { id: 'web', signal: 9, all: true } });
    assert.deepEqual(commandOf('kill', 'web'), { name: 'kill', options: { id: 'web', signal: 15, all: false } });
    assert.throws(() => commandOf('kill', 'web', 'NOPE'), { code: 'invalidArgument', message: 'unknown signal "NOPE"' });
  });

  test('limits of update become a resources object', () => {
    const command = commandOf('update', '--memory', '1.5g', '--memory-swap', '-1', '--cpu-quota', '-1', '--cpu-period', '0', '--cpuset-cpus', '0-1', '--pids-limit', '0', 'web');
    assert.deepEqual(command.name === 'update' && command.options.resources, {
      cpu: { cpus: '0-1', period: 0n, quota: -1n },
      memory: { limit: 1610612736n, swap: -1n },
      pids: { limit: 0n },
    });
    assert.throws(() => commandOf('update', '--memory', '5x', 'web'), { code: 'invalidArgument', message: 'invalid value for memory: "5x": invalid size' });
    assert.throws(() => commandOf('update', '--cpu-share', '-3', 'web'), { code: 'invalidArgument', message: 'invalid value for cpu-share: "-3": value out of range' });
  });

  test('standard input is that of the caller', () => {
    const command = commandOf('update', '-r', '-', 'web');
    assert.equal(command.name === 'update' && command.options.file, '/proc/4711/fd/0');
  });

  test('intervals have units', () => {
    const command = commandOf('events', '--interval', '1m1.5s', 'web');
    assert.equal(command.name === 'events' && command.options.intervalMs, 61_500);
    assert.throws(() => commandOf('events', '--interval', '0', 'web'), { code: 'invalidArgument', message: 'duration interval must be greater than 0' });
  });

  test('ids that are no file names are refused', () => {
    for (const id of ['..', '.', 'a/b', 'a b', 'ä', '\u0000', 'x'.repeat(256)])
      assert.throws(
        () => commandOf('state', id),
        (error: Error) => error.message.startsWith('invalid container ID format: '),
        JSON.stringify(id),
      );
    assert.throws(() => commandOf('state', ''), { code: 'invalidArgument', message: 'container id cannot be empty' });
  });

  test('users are 32-bit numbers, never names and never beyond', () => {
    for (const user of ['root', '4294967296', '-1', '1:x', ''.padEnd(30, '9')])
      assert.throws(
        () => commandOf('exec', '-u', user, 'web', 'ls'),
        (error: Error) => /^bad [ug]id: .* is not a number from 0 to 4294967295$/.test(error.message),
        user,
      );
  });
});

describe('command lines that are wrong', () => {
  for (const [argv, message, code, text] of [
    [['frobnicate'], "No help topic for 'frobnicate'", 3, /^$/],
    [['help', 'frobnicate'], "No help topic for 'frobnicate'", 3, /^$/],
    [['create'], 'berth-oci: "create" requires exactly 1 argument(s)', 1, /^Incorrect Usage\.\n\nNAME:\n {3}berth-oci create - /],
    [['exec'], 'berth-oci: "exec" requires a minimum of 1 argument(s)', 1, /^Incorrect Usage\.\n\nNAME:\n {3}berth-oci exec - /],
    [['kill', 'a', 'b', 'c'], 'berth-oci: "kill" requires a maximum of 2 argument(s)', 1, /^Incorrect Usage\.\n/],
    [['create', '--nope', 'x'], 'flag provided but not defined: -nope', 1, /^Incorrect Usage: flag provided but not defined: -nope\n/],
    [['create', '--bundle'], 'flag needs an argument: -bundle', 1, /^Incorrect Usage: flag needs an argument/],
    [['create', '-b', 'x', '--bundle', 'y', 'z'], 'Cannot use two forms of the same flag: bundle b', 1, /^Incorrect Usage: /],
    [['create', '--preserve-fds', 'x', 'q'], 'invalid value "x" for flag -preserve-fds: parse error', 1, /^Incorrect Usage: /],
    [['run', '--keep=perhaps', 'q'], 'invalid boolean value "perhaps" for -keep: parse error', 1, /^Incorrect Usage: /],
    [['create', '---b', 'q'], 'bad flag syntax: ---b', 1, /^Incorrect Usage: /],
  ] as const)
    test(argv.join(' '), () => {
      const misuse = misuseOf(...argv);
      assert.equal(misuse.message, message);
      assert.equal(misuse.code, code);
      assert.match(misuse.text, text);
    });

  test('every command has a help that names its flags', () => {
    const decoded = decodeRequest(['exec', '--help'], requestOf([]), surroundings);
    assert.ok(decoded.kind === 'print');
    assert.match(decoded.text, /^ {3}--additional-gids value, -g value {2,}further group; may be repeated$/m);
    assert.ok(decodeRequest(['kill', '-h'], requestOf([]), surroundings).kind === 'print');
  });
});
