/**
 * Log lines of the OCI runtime. In: messages. Out: lines of `--log`, or on the caller's standard error, in the two forms that callers of runc read (logrus: `level`, `msg`,
 * `time`). containerd's shim and conmon show the last line of level `error` of the JSON form to their users.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { RuntimeError, errnoName, errorMessage } from '#core';
import type { Front, OciLog } from './types.ts';

/** Where lines go and how they look. */
export interface LogTarget {
  /** Absolute; empty: the caller's standard error. */
  readonly file: string;
  readonly format: 'text' | 'json';
  readonly debug: boolean;
}

/** A log that is closed when the command is over. */
export interface OpenLog extends OciLog, Disposable {
  /** True where the lines are on standard error already. */
  readonly onStandardError: boolean;
}

type Level = 'debug' | 'info' | 'warning' | 'error';

const plainWord = /^[A-Za-z0-9\-._/@^+]+$/;
const shortLevels: Readonly<Record<Level, string>> = { debug: 'DEBU', info: 'INFO', warning: 'WARN', error: 'ERRO' };

/** The message without what could steer a terminal: it may quote a stranger's document. */
export function printable(message: string): string {
  return message.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, '?');
}

/** One line with its newline. `terminal`: the short form that people read. */
export function encodeLogLine({ level, message, time }: { readonly level: Level; readonly message: string; readonly time: Date }, form: 'text' | 'json' | 'terminal'): string {
  const stamp = `${time.toISOString().slice(0, 19)}Z`;
  if (form === 'json') return `${JSON.stringify({ level, msg: message, time: stamp })}\n`;
  if (form === 'terminal') return `${shortLevels[level]} ${printable(message)}\n`;
  return `time="${stamp}" level=${level} msg=${plainWord.test(message) ? message : JSON.stringify(message)}\n`;
}

/** Opens the log. Throws with the errno where the file cannot be opened. */
export function openLog(front: Front, target: LogTarget): OpenLog {
  let descriptor: number | undefined;
  // The caller's own standard error by its name, as `--log /dev/stderr` has it, would be a second way to the same file.
  if (target.file !== '' && target.file !== `/proc/${front.request.pid}/fd/2`) {
    try {
      // Not blocking: the file may be a FIFO that nobody reads, and this process may serve others.
      descriptor = openSync(target.file, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_SYNC | constants.O_NONBLOCK | constants.O_NOCTTY, 0o644);
    } catch (cause) {
      throw new RuntimeError('failedPrecondition', `open ${target.file}: ${errnoName(cause) === 'ENOENT' ? 'no such file or directory' : errorMessage(cause)}`, { cause });
    }
  }
  const form = target.format === 'text' && front.request.terminals.stderr ? 'terminal' : target.format;
  const write = (level: Level, message: string): void => {
    const entry = { level, message, time: new Date() };
    if (descriptor === undefined) return front.write(2, encodeLogLine(entry, form));
    try {
      writeSync(descriptor, encodeLogLine(entry, target.format));
    } catch {
      // A full disk or a full pipe costs the line; the command has its own result.
    }
  };
  return {
    onStandardError: descriptor === undefined,
    debug: (message) => {
      if (target.debug) write('debug', message);
    },
    info: (message) => write('info', message),
    warn: (message) => write('warning', message),
    error: (message) => write('error', message),
    [Symbol.dispose]: () => {
      if (descriptor !== undefined) closeSync(descriptor);
      descriptor = undefined;
    },
  };
}
