/** The doors over an engine that answers everything: which fields of the samples are read, and which fields of the answers are set. */
import type { DescMethod, JsonValue, Message } from '@bufbuild/protobuf';
import { create, fromJson } from '@bufbuild/protobuf';
import { ImageService, RuntimeService } from '#gen/cri-v1_pb.js';
import type { Engine } from '#pod';
import { buildImageHandlers } from '../../src/cri/image-service.ts';
import { buildRuntimeHandlers } from '../../src/cri/runtime-service.ts';
import { fullEngine } from './full-engine.ts';
import { fieldsSet, traceReads } from './trace.ts';

type Handler = (request: unknown, context: { readonly signal: AbortSignal }) => Promise<Readonly<Record<string, unknown>>> | AsyncIterable<Readonly<Record<string, unknown>>>;

const context = { signal: new AbortController().signal };

/** Handlers over that engine by their local names; `onUrl` is told what each URL stands for. */
function buildHandlers(engine: Engine, onUrl: (target: unknown) => void): ReadonlyMap<string, Handler> {
  const streaming = {
    url: (target: unknown) => {
      onUrl(target);
      return 'http://127.0.0.1:1/exec/token';
    },
  };
  // SAFETY: each handler gets the request of its own method below.
  return new Map(Object.entries({ ...buildRuntimeHandlers({ engine, version: '1', streaming }), ...buildImageHandlers(engine) } as unknown as Readonly<Record<string, Handler>>));
}

const handlers = buildHandlers(fullEngine, () => undefined);

/** Every method of both services that has a handler, by its name. */
export const served: ReadonlyMap<string, DescMethod> = new Map(
  [...RuntimeService.methods, ...ImageService.methods].flatMap((method) => (handlers.has(method.localName) ? [[method.name, method] as const] : [])),
);

/** Methods that answer Unimplemented. */
export const unserved: readonly string[] = [...RuntimeService.methods, ...ImageService.methods].flatMap((method) => (handlers.has(method.localName) ? [] : [method.name]));

/** Calls the handler; `reads` gets the names of the fields that it looks at. Resolves with what it answers. */
export async function callHandler(method: DescMethod, request: JsonValue, reads = new Set<string>()): Promise<readonly Message[]> {
  const handler = handlers.get(method.localName);
  if (handler === undefined) throw new Error(`no handler of ${method.name}`);
  const answer = handler(traceReads(method.input, fromJson(method.input, request), reads), context);
  if (!(Symbol.asyncIterator in answer)) return [create(method.output, await answer)];
  const messages: Message[] = [];
  for await (const message of answer) messages.push(create(method.output, message));
  return messages;
}

/** What became of all samples. */
export async function observe(
  samples: Readonly<Record<string, readonly JsonValue[]>>,
): Promise<{ readonly sent: ReadonlySet<string>; readonly read: ReadonlySet<string>; readonly answered: ReadonlySet<string> }> {
  const [sent, read, answered] = [new Set<string>(), new Set<string>(), new Set<string>()];
  for (const [name, requests] of Object.entries(samples)) {
    const method = served.get(name);
    if (method === undefined) throw new Error(`${name} is not served`);
    for (const request of requests) {
      fieldsSet(method.input, fromJson(method.input, request), sent);
      for (const message of await callHandler(method, request, read)) fieldsSet(method.output, message, answered);
    }
  }
  return { sent, read, answered };
}

/** What the handler asks the engine for, and what the URLs that it answers stand for. Signals are left out. */
export async function callsOf(method: DescMethod, request: JsonValue): Promise<readonly (readonly [name: string, ...args: readonly unknown[]])[]> {
  const calls: (readonly [string, ...unknown[]])[] = [];
  const engine = new Proxy(fullEngine, {
    get: (target, name, receiver) => {
      const member: unknown = Reflect.get(target, name, receiver);
      if (typeof member !== 'function') return member;
      return (...args: readonly unknown[]): unknown => {
        calls.push([String(name), ...args.filter((arg) => !(arg instanceof AbortSignal))]);
        return Reflect.apply(member, target, args);
      };
    },
  });
  const handler = buildHandlers(engine, (target) => void calls.push(['url', target])).get(method.localName);
  if (handler === undefined) throw new Error(`no handler of ${method.name}`);
  const answer = handler(fromJson(method.input, request), context);
  if (Symbol.asyncIterator in answer) await Array.fromAsync(answer);
  else await answer;
  return calls;
}
