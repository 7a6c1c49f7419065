/**
 * Protobuf-es descriptors ↔ grpc-js services. In: a service descriptor and typed handlers. Out: what grpc-js's `addService` takes.
 * The only file that knows both libraries; no RPC's meaning is here.
 */
import type { DescMessage, DescMethod, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { GenService, GenServiceMethods } from '@bufbuild/protobuf/codegenv2';
import { Metadata, ServerInterceptingCall, status } from '@grpc/grpc-js';
import type {
  MethodDefinition,
  ServerInterceptor,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  UntypedServiceImplementation,
  handleServerStreamingCall,
  handleUnaryCall,
  sendUnaryData,
} from '@grpc/grpc-js';
import { RuntimeError, errorCode, errorMessage, limits } from '#core';
import type { ErrorCode } from '#core';
import { streamOfList } from './batches.ts';
import { type CallReport, findIds } from './call-report.ts';

/** What a handler knows of its call besides the request. */
export interface CallContext {
  /** Aborted when the client cancels, goes away, or its deadline passes. */
  readonly signal: AbortSignal;
}

type MethodsOf<S> = S extends GenService<infer M> ? M : never;

/** Handlers by local method name. A method without one answers Unimplemented and names itself. */
export type ServiceHandlers<S> = {
  readonly [K in keyof MethodsOf<S>]?: MethodsOf<S>[K] extends { methodKind: 'unary'; input: infer I extends DescMessage; output: infer O extends DescMessage }
    ? (request: MessageShape<I>, context: CallContext) => Promise<MessageInitShape<O>>
    : MethodsOf<S>[K] extends { methodKind: 'server_streaming'; input: infer I extends DescMessage; output: infer O extends DescMessage }
      ? (request: MessageShape<I>, context: CallContext) => AsyncIterable<MessageInitShape<O>>
      : never;
};

type UnaryHandler = (request: unknown, context: CallContext) => Promise<unknown>;
type StreamHandler = (request: unknown, context: CallContext) => AsyncIterable<unknown>;

/** Told of every call once it has been answered. */
export interface CallObserver {
  /** Any clock that does not jump. */
  readonly nowMs: () => number;
  readonly onCall: (call: CallReport) => void;
}

/** Begins to measure a call; the returned function ends it. */
function observeCall(observer: CallObserver, method: DescMethod, request: unknown): (error?: unknown) => void {
  const startMs = observer.nowMs();
  return (...failure) => {
    const report = { method: `${method.parent.name}/${method.name}`, durationMs: observer.nowMs() - startMs, ...findIds(request) };
    observer.onCall(failure.length === 0 ? report : { ...report, error: failure[0] });
  };
}

const grpcCodes: Readonly<Record<ErrorCode, status>> = {
  cancelled: status.CANCELLED,
  unknown: status.UNKNOWN,
  invalidArgument: status.INVALID_ARGUMENT,
  deadlineExceeded: status.DEADLINE_EXCEEDED,
  notFound: status.NOT_FOUND,
  alreadyExists: status.ALREADY_EXISTS,
  permissionDenied: status.PERMISSION_DENIED,
  resourceExhausted: status.RESOURCE_EXHAUSTED,
  failedPrecondition: status.FAILED_PRECONDITION,
  aborted: status.ABORTED,
  outOfRange: status.OUT_OF_RANGE,
  unimplemented: status.UNIMPLEMENTED,
  internal: status.INTERNAL,
  unavailable: status.UNAVAILABLE,
  dataLoss: status.DATA_LOSS,
  unauthenticated: status.UNAUTHENTICATED,
};

/** The status travels in an HTTP/2 header, and clients bound their headers (8 KiB is common; percent-encoding triples). */
const errorMessageCharactersMax = 2000;

/** Any thrown value as a gRPC status. */
export function encodeStatus(error: unknown): { readonly code: status; readonly details: string; readonly metadata: Metadata } {
  const message = errorMessage(error);
  const details = message.length > errorMessageCharactersMax ? `${message.slice(0, errorMessageCharactersMax)}…` : message;
  // grpc-js percent-encodes with encodeURI, which throws on lone surrogates.
  return { code: grpcCodes[errorCode(error)], details: details.toWellFormed(), metadata: new Metadata() };
}

/** Definition and implementation of one service. */
export function buildService<M extends GenServiceMethods>(
  service: GenService<M>,
  handlers: ServiceHandlers<GenService<M>>,
  observer: CallObserver,
): { readonly definition: ServiceDefinition; readonly implementation: UntypedServiceImplementation } {
  // SAFETY: ServiceHandlers types each handler by its method; the loop below gives each the request its own descriptor decodes.
  const byName = new Map(Object.entries(handlers as Record<string, UnaryHandler & StreamHandler>));
  const definitions = service.methods.map((method): [string, MethodDefinition<unknown, unknown>] => [method.name, buildDefinition(method)]);
  const implementations = service.methods.map((method): [string, handleUnaryCall<unknown, unknown> | handleServerStreamingCall<unknown, unknown>] => {
    const handler = byName.get(method.localName);
    if (handler !== undefined && method.methodKind === 'unary') return [method.name, runUnary(method, handler, observer)];
    if (handler !== undefined && method.methodKind === 'server_streaming') return [method.name, runStream(method, handler, observer)];
    return [method.name, refuse(method, observer)];
  });
  return { definition: Object.fromEntries(definitions), implementation: Object.fromEntries(implementations) };
}

function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function buildDefinition(method: DescMethod): MethodDefinition<unknown, unknown> {
  return {
    path: pathOf(method),
    requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
    responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
    // SAFETY: grpc-js hands each function only what its counterpart of the same descriptor made.
    requestSerialize: (message) => Buffer.from(toBinary(method.input, message as MessageShape<typeof method.input>)),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    // Encoded by `runUnary` already, so that sending cannot fail between a message and its status.
    responseSerialize: (bytes) => bytes as Buffer,
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
}

/** A handler's result as bytes. Throws resourceExhausted above the bound of a message. */
function encodeResponse(method: DescMethod, response: unknown): Buffer {
  // SAFETY: ServiceHandlers types the handler's result as an initialiser of this descriptor's message.
  const bytes = toBinary(method.output, create(method.output, response as MessageInitShape<typeof method.output>));
  if (bytes.length > limits.grpcMessageBytesMax) {
    const stream = streamOfList.get(method.name);
    const hint = stream === undefined ? '' : `; use ${stream}, which sends it in parts, or a filter`;
    throw new RuntimeError('resourceExhausted', `${method.name}: the answer has ${bytes.length} bytes, at most ${limits.grpcMessageBytesMax}${hint}`);
  }
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Sends the status right behind the message. By itself grpc-js waits until the message has been written, and the client waits for the
 * status: a third of a millisecond on every call. It may do so only because sending a message cannot be refused; see `encodeResponse`.
 */
class PromptCall extends ServerInterceptingCall {
  override sendMessage(message: unknown, callback: () => void): void {
    super.sendMessage(message, () => undefined);
    callback();
  }
}

/** For the server's options. A stream waits for its reader: what is said to be sent at once would pile up in memory. */
export const answerPromptly: ServerInterceptor = (method, call) => (method.responseStream ? new ServerInterceptingCall(call) : new PromptCall(call));

function runUnary(method: DescMethod, handler: UnaryHandler, observer: CallObserver): handleUnaryCall<unknown, unknown> {
  return (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>): void => {
    const observed = observeCall(observer, method, call.request);
    const controller = new AbortController();
    let isAnswered = false;
    // Also comes after the answer; then nobody listens.
    call.on('cancelled', () => {
      if (!isAnswered) controller.abort(new RuntimeError('cancelled', `${method.name}: the client has gone`));
    });
    const answer = async (): Promise<void> => {
      try {
        const response = await handler(call.request, { signal: controller.signal });
        const bytes = encodeResponse(method, response);
        isAnswered = true;
        callback(null, bytes);
        observed();
      } catch (error) {
        observed(error);
        callback(encodeStatus(error));
      }
    };
    void answer();
  };
}

/** Messages are made one by one, as fast as the client takes them; a client that goes away ends the iteration. */
function runStream(method: DescMethod, handler: StreamHandler, observer: CallObserver): handleServerStreamingCall<unknown, unknown> {
  return (call: ServerWritableStream<unknown, unknown>): void => {
    const observed = observeCall(observer, method, call.request);
    const controller = new AbortController();
    call.on('cancelled', () => controller.abort(new RuntimeError('cancelled', `${method.name}: the client has gone`)));
    const answer = async (): Promise<void> => {
      try {
        for await (const response of handler(call.request, { signal: controller.signal })) {
          if (!call.write(encodeResponse(method, response))) await drained(call, controller.signal);
          controller.signal.throwIfAborted();
        }
        call.end();
        observed();
      } catch (error) {
        observed(error);
        call.emit('error', encodeStatus(error));
      }
    };
    void answer();
  };
}

/** Resolves when the client has taken what was written; rejects when it has gone. */
async function drained(call: ServerWritableStream<unknown, unknown>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = (): void => reject(signal.reason);
  call.once('drain', resolve);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await promise;
  } finally {
    call.off('drain', resolve);
    signal.removeEventListener('abort', onAbort);
  }
}

function refuse(method: DescMethod, observer: CallObserver): handleUnaryCall<unknown, unknown> & handleServerStreamingCall<unknown, unknown> {
  const error = new RuntimeError('unimplemented', `${method.name}: not implemented by this version of berth`);
  return (call: ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>, callback?: sendUnaryData<unknown>): void => {
    observer.onCall({ method: `${method.parent.name}/${method.name}`, durationMs: 0, error });
    if (callback === undefined) call.emit('error', encodeStatus(error));
    else callback(encodeStatus(error));
  };
}
