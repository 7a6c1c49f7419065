/**
 * The methods that the engine socket carries, as a table checked against the Engine interface: a method that is missing here, or
 * whose signal moved, does not compile. No I/O here.
 */
import { RuntimeError, invalidArgument } from '#core';
import type { Engine, ProcessStreams } from '#pod';
import { engineProtocol } from './frames.ts';
import { decodeValue, encodeValue } from './values.ts';

/** Name of a method of Engine. */
export type MethodName = keyof Engine;

/** Index of the AbortSignal among a method's parameters, or undefined where it takes none. */
type SignalAt<M extends MethodName> = Required<Parameters<Engine[M]>> extends [...infer Before, AbortSignal] ? Before['length'] : undefined;

/** `true` for an argument that holds a function to tell of progress. */
type TakesProgress<T> = T extends object ? ('onProgress' extends keyof T ? true : never) : never;

/** How a method answers: one value, progress reports and one value, the streams of a process, or events until the end. */
type KindOf<M extends MethodName> =
  true extends TakesProgress<Parameters<Engine[M]>[number]>
    ? 'progress'
    : ReturnType<Engine[M]> extends Promise<ProcessStreams>
      ? 'streams'
      : ReturnType<Engine[M]> extends AsyncIterable<unknown>
        ? 'events'
        : 'value';

/** How a method crosses the socket. */
export interface MethodShape<M extends MethodName = MethodName> {
  readonly kind: KindOf<M>;
  /** Number of arguments that cross the socket, optional ones included. The options of a method of kind `progress` are the last of them. */
  readonly argsMax: number;
  readonly signalAt: SignalAt<M>;
}

/** What may be called over the engine socket. Anything else answers unimplemented. */
export const methods: { readonly [M in MethodName]: MethodShape<M> } = {
  status: { kind: 'value', argsMax: 0, signalAt: undefined },
  updateRuntimeConfig: { kind: 'value', argsMax: 1, signalAt: undefined },
  runPodSandbox: { kind: 'value', argsMax: 2, signalAt: 2 },
  stopPodSandbox: { kind: 'value', argsMax: 1, signalAt: 1 },
  removePodSandbox: { kind: 'value', argsMax: 1, signalAt: 1 },
  podSandboxStatus: { kind: 'value', argsMax: 1, signalAt: undefined },
  listPodSandboxes: { kind: 'value', argsMax: 1, signalAt: undefined },
  createContainer: { kind: 'value', argsMax: 2, signalAt: 2 },
  startContainer: { kind: 'value', argsMax: 1, signalAt: 1 },
  stopContainer: { kind: 'value', argsMax: 2, signalAt: 2 },
  removeContainer: { kind: 'value', argsMax: 1, signalAt: 1 },
  containerStatus: { kind: 'value', argsMax: 1, signalAt: undefined },
  listContainers: { kind: 'value', argsMax: 1, signalAt: undefined },
  waitContainer: { kind: 'value', argsMax: 1, signalAt: 1 },
  signalContainer: { kind: 'value', argsMax: 2, signalAt: undefined },
  execSync: { kind: 'value', argsMax: 3, signalAt: 3 },
  exec: { kind: 'streams', argsMax: 2, signalAt: 2 },
  attach: { kind: 'streams', argsMax: 2, signalAt: 2 },
  portForward: { kind: 'streams', argsMax: 2, signalAt: 2 },
  reopenContainerLog: { kind: 'value', argsMax: 1, signalAt: undefined },
  updateContainer: { kind: 'value', argsMax: 2, signalAt: 2 },
  updatePodSandbox: { kind: 'value', argsMax: 2, signalAt: 2 },
  containerInfo: { kind: 'value', argsMax: 1, signalAt: undefined },
  podSandboxInfo: { kind: 'value', argsMax: 1, signalAt: undefined },
  pullImage: { kind: 'progress', argsMax: 2, signalAt: 2 },
  pushImage: { kind: 'progress', argsMax: 2, signalAt: 2 },
  importImages: { kind: 'progress', argsMax: 2, signalAt: 2 },
  saveImages: { kind: 'progress', argsMax: 3, signalAt: 3 },
  imageFromHost: { kind: 'value', argsMax: 1, signalAt: 1 },
  imageStatus: { kind: 'value', argsMax: 1, signalAt: undefined },
  imageInfo: { kind: 'value', argsMax: 1, signalAt: undefined },
  listImages: { kind: 'value', argsMax: 0, signalAt: undefined },
  tagImage: { kind: 'value', argsMax: 2, signalAt: undefined },
  pinImage: { kind: 'value', argsMax: 2, signalAt: undefined },
  removeImage: { kind: 'value', argsMax: 2, signalAt: undefined },
  imageUsage: { kind: 'value', argsMax: 0, signalAt: undefined },
  imageDiskUsage: { kind: 'value', argsMax: 0, signalAt: undefined },
  verifyImages: { kind: 'progress', argsMax: 1, signalAt: 1 },
  collectImages: { kind: 'value', argsMax: 1, signalAt: 1 },
  imageTags: { kind: 'value', argsMax: 2, signalAt: 2 },
  imageReferrers: { kind: 'value', argsMax: 2, signalAt: 2 },
  containerStats: { kind: 'value', argsMax: 1, signalAt: undefined },
  listContainerStats: { kind: 'value', argsMax: 1, signalAt: undefined },
  podSandboxStats: { kind: 'value', argsMax: 1, signalAt: undefined },
  listPodSandboxStats: { kind: 'value', argsMax: 1, signalAt: undefined },
  metricDescriptors: { kind: 'value', argsMax: 0, signalAt: undefined },
  podSandboxMetrics: { kind: 'value', argsMax: 0, signalAt: undefined },
  events: { kind: 'events', argsMax: 0, signalAt: 0 },
  explain: { kind: 'value', argsMax: 1, signalAt: undefined },
};

/** True for a name in the table, and for nothing that only its prototype has. */
export function isMethodName(name: string): name is MethodName {
  return Object.hasOwn(methods, name);
}

/** What a `call` frame asks: the handshake, or a method with its arguments. */
export type Call = { readonly kind: 'handshake' } | { readonly kind: 'method'; readonly method: MethodName; readonly args: readonly unknown[] };

/** Name of the call that only compares protocols; no Engine method has it. */
const handshakeName = '';

/** Text of a `call` frame. */
export function encodeCall(call: Call): string {
  const { method, args } = call.kind === 'handshake' ? { method: handshakeName, args: [] } : call;
  return JSON.stringify({ protocol: engineProtocol, method, args: encodeValue(args) });
}

/**
 * The call in a frame's text. Throws failedPrecondition for another protocol, unimplemented for an unknown method and
 * invalidArgument for a malformed call. Shapes of the arguments are the client's word: it is a program of the same protocol run
 * by the same user, which the socket's mode guarantees.
 */
export function decodeCall(text: string): Call {
  const decoded = decodeValue(text);
  if (typeof decoded !== 'object' || decoded === null) throw invalidArgument('', 'decode engine call: not an object');
  const fields = new Map<string, unknown>(Object.entries(decoded));
  const protocol = fields.get('protocol');
  if (protocol !== engineProtocol) {
    throw new RuntimeError(
      'failedPrecondition',
      `call engine: it speaks protocol ${engineProtocol}, the client ${JSON.stringify(protocol)}; use the same version of berth for both`,
    );
  }
  const method = fields.get('method');
  const encodedArgs = fields.get('args');
  if (typeof method !== 'string' || typeof encodedArgs !== 'string') throw invalidArgument('', 'decode engine call: method and args required');
  if (method === handshakeName) return { kind: 'handshake' };
  if (!isMethodName(method)) throw new RuntimeError('unimplemented', `call engine: no method ${JSON.stringify(method.slice(0, 64))}`);
  const args = decodeValue(encodedArgs);
  if (!Array.isArray(args) || args.length > methods[method].argsMax) {
    throw invalidArgument('', `decode engine call ${method}: at most ${methods[method].argsMax} arguments expected`);
  }
  return { kind: 'method', method, args };
}
