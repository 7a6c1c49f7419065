/** The pure parts of the command line: wording, progress, log records, manifest text. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SinkDouble } from './doubles.ts';
import { formatAge, formatBytes, formatDuration, formatJson, formatTable, printable } from './human.ts';
import { LogParser, LogTail, parseSince } from './log-lines.ts';
import { parseManifestText } from './manifest-file.ts';
import { Progress, colourOf, formatBar } from './progress.ts';
import { decodePublish, decodeUser, nameFromImage } from './run-options.ts';
import { exitStatusOf } from './run-report.ts';
import { LinePrefixer } from './terminal.ts';
import { TransferReport, showProgress } from './transfer-report.ts';
import { containerId, podSandboxId } from '#core';
import type { ContainerOutcome, RunResult } from '#podrun';

test('sizes, times and ages have few digits', () => {
  assert.deepEqual([0, 999, 1000, 1536, 23 * 1024 ** 2, 999.6 * 1024, 5 * 1024 ** 4].map(formatBytes), ['0 B', '999 B', '1.0 KiB', '1.5 KiB', '23 MiB', '1000 KiB', '5.0 TiB']);
  assert.deepEqual([3.14, 850, 1234, 45_000, 200_000].map(formatDuration), ['3.1 ms', '850 ms', '1.2 s', '45 s', '3m20s']);
  const seconds = [5, 185, 7800, 7200, 600_000].map((age) => formatAge(1_000_000_000n, BigInt(age + 1) * 1_000_000_000n));
  assert.deepEqual(seconds, ['5s', '3m', '2h10m', '2h', '6d']);
  assert.deepEqual([formatAge(0n, 5n), formatAge(10n, 5n)], ['-', '0s']);
});

test('a terminal that goes away is not a failure of what is shown on it', async () => {
  const gone = new (class extends SinkDouble {
    override async write(): Promise<void> {
      throw new Error('EIO');
    }
  })({ isTTY: true });
  const progress = new Progress(gone);
  progress.update('a', 'half');
  progress.line('done');
  // A rejection that nobody waits for would end the process here.
  await new Promise((turn) => setImmediate(turn));
  await progress.finish();
});

test('table cells cannot move the cursor, and lines have no trailing spaces', () => {
  assert.deepEqual(
    formatTable(
      ['A', 'B'],
      [
        ['x\u001b[2J', ''],
        ['long cell', 'y'],
      ],
    ),
    ['A          B', 'x\\x1b[2J', 'long cell  y'],
  );
  assert.equal(printable('a\nb\u009bc\u202ed'), 'a\\x0ab\\x9bc\\u202ed');
  const hostile = { a: 'x\u009b2J\u001b\u202e' };
  assert.equal(formatJson(hostile), '{\n  "a": "x\\u009b2J\\u001b\\u202e"\n}');
  assert.deepEqual(JSON.parse(formatJson(hostile)), hostile);
});

test('JSON has 64-bit integers as texts and bytes as base64', () => {
  assert.equal(formatJson({ a: 1n << 62n, b: new Uint8Array([1]) }), '{\n  "a": "4611686018427387904",\n  "b": "AQ=="\n}');
});

test('a bar is empty without a total and full at the end', () => {
  assert.deepEqual([formatBar(0, 0), formatBar(1, 2), formatBar(9, 3)], [`[${'-'.repeat(24)}]   0%`, `[${'#'.repeat(12)}${'-'.repeat(12)}]  50%`, `[${'#'.repeat(24)}] 100%`]);
});

test('on a terminal live lines are redrawn below the lines that stay', async () => {
  const sink = new SinkDouble({ isTTY: true });
  const progress = new Progress(sink);
  progress.update('a', 'working');
  progress.line('done b');
  progress.update('a', 'x'.repeat(200));
  await progress.finish();
  assert.equal(sink.text, ['\u001b[?25lworking\n', '\u001b[1A\r\u001b[Jdone b\nworking\n', `\u001b[1A\r\u001b[J${'x'.repeat(79)}\n`, '\u001b[1A\r\u001b[J\u001b[?25h'].join(''));
});

test('live lines are drawn a few times a second, and the last change is drawn', async () => {
  const sink = new SinkDouble({ isTTY: true });
  const sleeps: PromiseWithResolvers<void>[] = [];
  let nowMs = 0;
  const clock = {
    monotonicMs: () => nowMs,
    sleep: async (_durationMs: number, signal?: AbortSignal): Promise<void> => {
      const sleep = Promise.withResolvers<void>();
      sleeps.push(sleep);
      signal?.addEventListener('abort', () => sleep.reject(new Error('cancelled')));
      return sleep.promise;
    },
  };
  const progress = new Progress(sink, clock);
  for (const text of ['1', '2', '3']) progress.update('a', text);
  assert.deepEqual([sink.text.includes('3'), sleeps.length], [false, 1]);
  nowMs = 50;
  sleeps[0]?.resolve();
  await progress.flush();
  await sleeps[0]?.promise;
  await progress.flush();
  assert.ok(sink.text.includes('3\n') && !sink.text.includes('2\n'), JSON.stringify(sink.text));
  progress.update('a', '4');
  await progress.finish();
  assert.ok(!sink.text.includes('4\n') && sink.text.endsWith('\u001b[?25h'), JSON.stringify(sink.text));
});

test('elsewhere only the lines that stay are written', async () => {
  const sink = new SinkDouble();
  const progress = new Progress(sink);
  progress.update('a', 'working');
  progress.line('done');
  showProgress(progress, 'p', 'image', { stage: 'downloading', bytesDone: 1, bytesTotal: 2 });
  await progress.finish();
  assert.equal(sink.text, 'done\n');
});

test('a pull has a live line per layer that disappears when the layer is done', async () => {
  const sink = new SinkDouble({ isTTY: true });
  const progress = new Progress(sink);
  showProgress(progress, 'p', 'image', { stage: 'downloading', layer: 'sha256:abcdef0123456789', bytesDone: 512, bytesTotal: 1024 });
  showProgress(progress, 'p', 'image', { stage: 'done', layer: 'sha256:abcdef0123456789', bytesDone: 1024, bytesTotal: 1024 });
  await progress.finish();
  assert.ok(sink.text.includes(`  abcdef012345  downloading ${formatBar(1, 2)} 512 B/1.0 KiB`));
  assert.ok(sink.text.endsWith('\u001b[J\u001b[?25h'));
});

test('a long name is cut at its beginning so that the progress stays on the screen', async () => {
  const sink = new SinkDouble({ isTTY: true });
  const progress = new Progress(sink);
  const { show } = new TransferReport(progress, { isLive: true, title: `pull registry.example.com/${'team/'.repeat(20)}app:1` });
  show({ stage: 'downloading', bytesDone: 512, bytesTotal: 1024 });
  await progress.finish();
  const line = sink.text.split('\n')[0]?.replace('\u001b[?25l', '') ?? '';
  assert.equal(line.length, 79);
  assert.ok(line.startsWith('…') && line.includes(`team/app:1  downloading ${formatBar(1, 2)} 512 B/1.0 KiB`), line);
});

test('without a terminal a transfer has a line for each stage and each layer that is done', async () => {
  const sink = new SinkDouble();
  const progress = new Progress(sink);
  const { show } = new TransferReport(progress, { isLive: false, title: 'pull a\u001b[2J' });
  show({ stage: 'resolving', bytesDone: 0, bytesTotal: 0 });
  show({ stage: 'downloading', bytesDone: 0, bytesTotal: 2048 });
  show({ stage: 'downloading', layer: 'sha256:abcdef0123456789', bytesDone: 5, bytesTotal: 1024 });
  show({ stage: 'downloading', bytesDone: 1000, bytesTotal: 2048 });
  show({ stage: 'done', layer: 'sha256:abcdef0123456789', bytesDone: 1024, bytesTotal: 1024 });
  show({ stage: 'done', layer: 'sha256:abcdef0123456789', bytesDone: 1024, bytesTotal: 1024 });
  show({ stage: 'done', bytesDone: 2048, bytesTotal: 2048 });
  await progress.finish();
  assert.equal(sink.text, 'pull a\\x1b[2J: resolving\npull a\\x1b[2J: downloading 2.0 KiB\n  abcdef012345  done  1.0 KiB\n');
});

test('colours are for terminals that want them', () => {
  const terminal = new SinkDouble({ isTTY: true });
  assert.equal(colourOf(terminal, {})(31, 'x'), '\u001b[31mx\u001b[0m');
  assert.equal(colourOf(terminal, { NO_COLOR: '1' })(31, 'x'), 'x');
  assert.equal(colourOf(terminal, { TERM: 'dumb' })(31, 'x'), 'x');
  assert.equal(colourOf(new SinkDouble(), {})(31, 'x'), 'x');
});

test('log records are found across chunks, and what is no record is passed over', () => {
  const parser = new LogParser();
  const entries = [...parser.push(Buffer.from('garbage\n2024-01-31T12:00:00Z std')), ...parser.push(Buffer.from('out F a b\n2024-01-31T12:00:00Z stderr P \n'))];
  assert.deepEqual(
    entries.map(({ stream, partial, content }) => [stream, partial, content.toString()]),
    [
      ['stdout', false, 'a b'],
      ['stderr', true, ''],
    ],
  );
});

test('a tail counts the parts of one line as one', () => {
  const parser = new LogParser();
  const tail = new LogTail(2);
  for (const entry of parser.push(Buffer.from(['stdout F 1', 'stdout P 2', 'stderr F e', 'stdout F 3'].map((text) => `2024-01-31T12:00:00Z ${text}\n`).join('')))) tail.push(entry);
  assert.deepEqual(
    tail.take().map(({ content }) => content.toString()),
    ['2', '3', 'e'],
  );
});

test('--since takes durations and times', () => {
  assert.equal(parseSince('1h30m', 10_000_000), 10_000_000 - 5_400_000);
  assert.equal(parseSince('2024-01-31T12:00:00Z', 0), 1_706_702_400_000);
  for (const text of ['', '10', '5x', 'now', '2024-13-01T00:00:00Z']) assert.equal(parseSince(text, 0), undefined, text);
});

test('prefixed lines of two streams do not mix, long lines are broken', () => {
  const lines: string[] = [];
  const prefixer = new LinePrefixer('p | ', (line) => lines.push(line));
  prefixer.push(1, Buffer.from('a'));
  prefixer.push(2, Buffer.from('err\r\n'));
  prefixer.push(1, Buffer.from('b\nrest'));
  prefixer.end();
  assert.deepEqual(lines, ['p | err', 'p | ab', 'p | rest']);
  prefixer.push(1, Buffer.from('x'.repeat(16 * 1024 + 1)));
  assert.equal(lines.at(-1)?.length, 16 * 1024 + 4);
});

test('YAML is read as Kubernetes reads it', () => {
  assert.deepEqual(parseManifestText('a: 0644\nb: yes\nc: 12:30\nd: 2024-01-02\ne: "0644"\n---\n---\nf: 1', 'x'), [
    { a: 0o644, b: true, c: '12:30', d: '2024-01-02', e: '0644' },
    null,
    { f: 1 },
  ]);
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x,x]\n${['b', 'c', 'd', 'e'].map((key, index) => `${key}: &${key} [${Array(10).fill(`*${'abcd'[index]}`).join(',')}]`).join('\n')}`;
  assert.throws(() => parseManifestText(bomb, 'x'), { code: 'invalidArgument', message: 'read x: Excessive alias count indicates a resource exhaustion attack' });
});

test('published ports and users', () => {
  assert.deepEqual(decodePublish('80'), { containerPort: 80, hostPort: 80, protocol: 'tcp' });
  assert.deepEqual(decodePublish('[::1]:53:5353/udp'), { containerPort: 5353, hostPort: 53, hostIp: '::1', protocol: 'udp' });
  for (const text of ['', 'a', '1:2:3', '80/icmp', '0', '70000']) assert.throws(() => decodePublish(text), { code: 'invalidArgument' }, text);
  assert.deepEqual([decodeUser('5'), decodeUser('5:6'), decodeUser('www-data')], [{ uid: 5 }, { uid: 5, gid: 6 }, { username: 'www-data' }]);
  for (const text of ['', '5:staff', 'a:5', '1:2:3', 'a b']) assert.throws(() => decodeUser(text), { code: 'invalidArgument' }, text);
  assert.equal(nameFromImage('reg:5000/My_App/Web.Server:1.0@sha256:aa', new Uint8Array([1, 2])), 'web-server-0102');
});

test('the exit status is that of the containers, not of sidecars', () => {
  const outcome = (role: ContainerOutcome['role'], exitCode: number): ContainerOutcome => ({ name: 'x', role, id: containerId('x'), exitCode, reason: '', restarts: 0 });
  const result = (containers: readonly ContainerOutcome[], fields: Partial<RunResult> = {}): RunResult => ({
    podSandboxId: podSandboxId('p'),
    containers,
    interrupted: false,
    initFailed: false,
    ...fields,
  });
  assert.equal(exitStatusOf(result([outcome('sidecar', 143), outcome('main', 0), outcome('main', 3)])), 3);
  assert.equal(exitStatusOf(result([outcome('sidecar', 143), outcome('main', 0)])), 0);
  assert.equal(exitStatusOf(result([outcome('init', 7)], { initFailed: true })), 7);
  assert.equal(exitStatusOf(result([], { interrupted: true })), 130);
});
