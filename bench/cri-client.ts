/**
 * A small CRI client for the benchmarks. In: the socket of any CRI runtime. Out: its calls, timed by the caller.
 * It uses the project's own message types, so both runtimes are asked by the same code.
 */
import { type Client, credentials, makeGenericClientConstructor } from '@grpc/grpc-js';
import { type DescMethodUnary, type DescService, type Message, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { ImageService, RuntimeService } from '../src/gen/cri-v1_pb.js';

type Call = (method: string, request: Record<string, unknown>) => Promise<Record<string, unknown>>;

/** `runtime` and `image` make one unary call each, by method name with a lower-case first letter. */
export interface CriClient {
  readonly runtime: Call;
  readonly image: Call;
  close(): void;
}

function bind(client: Client, service: DescService): Call {
  return async (name, request) => {
    const method = service.method[name] as DescMethodUnary | undefined;
    if (method === undefined) throw new Error(`no method ${name}`);
    return new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        `/${service.typeName}/${method.name}`,
        (message: Message) => Buffer.from(toBinary(method.input, message)),
        (bytes: Buffer) => fromBinary(method.output, bytes),
        create(method.input, request),
        (error, reply) => (error === null ? resolve(reply as unknown as Record<string, unknown>) : reject(error)),
      );
    });
  };
}

/** Connects to a socket path; the connection is made by the first call. */
export function openCri(socketPath: string): CriClient {
  const Plain = makeGenericClientConstructor({}, 'cri');
  const client = new Plain(`unix:${socketPath}`, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 }) as unknown as Client;
  return { runtime: bind(client, RuntimeService), image: bind(client, ImageService), close: () => client.close() };
}
