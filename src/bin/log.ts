/**
 * The daemon's log: one line per entry, for programs or for people. In: a message and fields of the names below. Out: lines on a
 * descriptor. The same key always names the same kind of id. It never waits for its reader: what one does not take in time is counted and dropped.
 */
import { pino } from 'pino';
import type { LogFormat, LogLevel } from './settings.ts';

/** What an entry may say besides its message; a closed list, so that one thing has one name and nothing secret has any. */
export interface LogFields {
  readonly podSandboxId?: string;
  readonly containerId?: string;
  readonly imageId?: string;
  /** Name of an image as it was asked for. */
  readonly image?: string;
  /** Runtime handler. */
  readonly handler?: string;
  /** `SERVICE/METHOD` of a call. */
  readonly method?: string;
  /** Canonical code of an error, as gRPC spells it in lower camel case. */
  readonly code?: string;
  readonly durationMs?: number;
  readonly exitCode?: number;
  readonly reason?: string;
  /** Kubernetes' names of a pod and of a container in it. */
  readonly k8sNamespace?: string;
  readonly podName?: string;
  readonly containerName?: string;
  readonly pid?: number;
  readonly socket?: string;
  readonly rootDirectory?: string;
  readonly runDirectory?: string;
  readonly version?: string;
  readonly files?: readonly string[];
  /** Full keys of settings. */
  readonly changed?: readonly string[];
  readonly needRestart?: readonly string[];
  readonly droppedLines?: number;
  readonly stack?: string;
}

/** An open log. */
export interface Log {
  error(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
  isEnabled(level: LogLevel): boolean;
  setLevel(level: LogLevel): void;
}

/** Where lines go. */
export interface LogSink {
  /** Takes a line with its end. Never throws. */
  write(line: string): void;
  /** Resolves when everything is written, or when the reader does not take it in time. */
  flush(): Promise<void>;
  /** For a process that ends now: writes what waits without a return to the event loop. */
  flushAtExit(): void;
}

/** A text that can stand in a line for people without quotes. */
const isPlainWord = (text: string): boolean => /^[\w.:/@+-]+$/.test(text);
const formatField = (value: unknown): string => (typeof value === 'string' && isPlainWord(value) ? value : JSON.stringify(value));

/** What JSON leaves as it is and terminals act on: DEL, the second set of control characters, changes of direction. */
const escapeControls = (text: string): string =>
  text.replaceAll(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** A JSON line of ours as a line for people: time, level, message, then `key=value`. */
export function formatText(line: string): string {
  // SAFETY: the line was made by JSON.stringify of an object with these keys.
  const { time, level, message, ...fields } = JSON.parse(line) as { readonly time: string; readonly level: string; readonly message: string };
  const words = Object.entries(fields).map(([key, value]) => `${key}=${formatField(value)}`);
  // JSON's escapes keep the control characters of ASCII off a terminal.
  const text = JSON.stringify(message).slice(1, -1).replaceAll('\\"', '"').replaceAll('\\\\', '\\');
  return `${time} ${level.toUpperCase().padEnd(5)} ${escapeControls([text, ...words].join(' '))}\n`;
}

/** Makes a log. `now` gives the time of an entry in milliseconds since 1970. */
export function createLog({
  level,
  format,
  sink,
  now,
}: {
  readonly level: LogLevel;
  readonly format: LogFormat;
  readonly sink: Pick<LogSink, 'write'>;
  readonly now: () => number;
}): Log {
  const logger = pino(
    {
      level,
      base: null,
      messageKey: 'message',
      timestamp: () => `,"time":"${new Date(now()).toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line) => sink.write(format === 'text' ? formatText(line) : line) },
  );
  return {
    error: (message, fields = {}) => logger.error(fields, message),
    warn: (message, fields = {}) => logger.warn(fields, message),
    info: (message, fields = {}) => logger.info(fields, message),
    debug: (message, fields = {}) => logger.debug(fields, message),
    isEnabled: (asked) => logger.isLevelEnabled(asked),
    setLevel: (next) => {
      logger.level = next;
    },
  };
}
