/**
 * Which protocols a client may choose, and what each means. In: the names that a client offers. Out: the first that is served. Pure.
 * Source: the remotecommand and portforward subprotocols of Kubernetes, in the order of its clients.
 */
import type { StatusFormat } from './status.ts';
import type { StreamTarget, WantedStreams } from './types.ts';
import type { ChannelEncoding } from './websocket-channels.ts';

/** What a version of the remote command protocol over SPDY differs in. */
export interface CommandProtocol {
  readonly name: string;
  readonly format: StatusFormat;
  /** The client has a stream for the size of the terminal. */
  readonly resize: boolean;
}

/** Remote command over SPDY. The last one is also that of clients that name none. */
export const commandProtocols: readonly CommandProtocol[] = [
  { name: 'v4.channel.k8s.io', format: 'object', resize: true },
  { name: 'v3.channel.k8s.io', format: 'text', resize: true },
  { name: 'v2.channel.k8s.io', format: 'text', resize: false },
  { name: 'channel.k8s.io', format: 'text', resize: false },
];

/** Port-forward over SPDY, also inside a WebSocket. */
export const forwardProtocol = 'portforward.k8s.io';
/** Port-forward's SPDY connection as the messages of a WebSocket. */
export const tunnelProtocol = `SPDY/3.1+${forwardProtocol}`;

/** What a WebSocket subprotocol differs in. */
export interface WebSocketProtocol {
  /** Empty: the client names none. */
  readonly name: string;
  readonly encoding: ChannelEncoding;
  readonly format: StatusFormat;
}

const binary: ChannelEncoding = { base64: false, closeSignal: false };
const text: ChannelEncoding = { base64: true, closeSignal: false };

const commandWebSockets: readonly WebSocketProtocol[] = [
  { name: 'v5.channel.k8s.io', encoding: { base64: false, closeSignal: true }, format: 'object' },
  { name: 'v4.channel.k8s.io', encoding: binary, format: 'object' },
  { name: 'v4.base64.channel.k8s.io', encoding: text, format: 'object' },
  { name: 'channel.k8s.io', encoding: binary, format: 'text' },
  { name: 'base64.channel.k8s.io', encoding: text, format: 'text' },
  { name: '', encoding: binary, format: 'text' },
];
const forwardWebSockets: readonly WebSocketProtocol[] = [
  { name: tunnelProtocol, encoding: binary, format: 'text' },
  { name: 'v4.channel.k8s.io', encoding: binary, format: 'text' },
  { name: 'v4.base64.channel.k8s.io', encoding: text, format: 'text' },
  { name: '', encoding: binary, format: 'text' },
];

/** The first protocol on the client's list that is on ours; undefined where there is none. */
export function negotiate<P extends { readonly name: string }>(offered: readonly string[], served: readonly P[]): P | undefined {
  for (const name of offered) {
    const found = served.find((protocol) => protocol.name === name);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The WebSocket protocols of one kind of request. */
export function webSocketProtocols(kind: StreamTarget['kind']): readonly WebSocketProtocol[] {
  return kind === 'portForward' ? forwardWebSockets : commandWebSockets;
}

/** Names in a header whose values have commas between them. */
export function splitNames(header: string | undefined): readonly string[] {
  return (header ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
}

/** Streams of a remote command, by their type. */
export type CommandStream = 'error' | 'stdin' | 'stdout' | 'stderr' | 'resize';

/** Numbers of their channels in a WebSocket. */
export const commandChannels = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const satisfies Readonly<Record<CommandStream, number>>;

/** The streams that a client of this request opens. */
export function expectedStreams({ stdin, stdout, stderr, tty }: WantedStreams, { resize }: Pick<CommandProtocol, 'resize'>): readonly CommandStream[] {
  const wanted: Readonly<Record<CommandStream, boolean>> = { error: true, stdin, stdout, stderr, resize: tty && resize };
  return (['error', 'stdin', 'stdout', 'stderr', 'resize'] as const).filter((name) => wanted[name]);
}
