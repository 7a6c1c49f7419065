/**
 * A small CRI client for the benchmarks. In: the socket of any CRI runtime. Out: its calls, timed by the caller.
 * It speaks gRPC over Node's HTTP/2 and no library, since what the client costs is added to every figure of both runtimes.
 */
import { type IncomingHttpHeaders, connect } from 'node:http2';
import { createConnection } from 'node:net';
import { type DescMethodUnary, type DescService, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { ImageService, RuntimeService } from '../src/gen/cri-v1_pb.js';

type Call = (method: string, request: Record<string, unknown>) => Promise<Record<string, unknown>>;

/** `runtime` and `image` make one unary call each, by method name with a lower-case first letter. */
export interface CriClient {
  readonly runtime: Call;
  readonly image: Call;
  close(): void;
}

/** A gRPC message: one zero byte (not compressed), its length, its bytes. */
const prefixBytes = 5;

function frame(message: Uint8Array): Buffer {
  const prefix = Buffer.alloc(prefixBytes);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

type Send = (path: string, message: Uint8Array) => Promise<Buffer>;

function bind(send: Send, service: DescService): Call {
  return async (name, request) => {
    const method = service.method[name] as DescMethodUnary | undefined;
    if (method === undefined) throw new Error(`no method ${name}`);
    const reply = await send(`/${service.typeName}/${method.name}`, toBinary(method.input, create(method.input, request)));
    return { ...fromBinary(method.output, reply) };
  };
}

/** Connects to a socket path; a call fails until somebody listens there. */
export function openCri(socketPath: string): CriClient {
  const open = (): ReturnType<typeof connect> => {
    const session = connect('http://localhost', { createConnection: () => createConnection(socketPath) });
    // Whoever waits for an answer is told by its stream.
    session.on('error', () => undefined);
    return session;
  };
  let session = open();
  const send: Send = async (path, message) => {
    if (session.closed || session.destroyed) session = open();
    const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc+proto', te: 'trailers' });
    const chunks: Buffer[] = [];
    let [status, text] = ['', ''];
    const note = (headers: IncomingHttpHeaders): void => {
      status = [headers['grpc-status'] ?? status].flat().join();
      text = [headers['grpc-message'] ?? text].flat().join();
    };
    stream.on('response', note).on('trailers', note);
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    const ended = new Promise<void>((resolve, reject) => stream.once('end', resolve).once('error', reject));
    stream.end(frame(message));
    await ended;
    if (status !== '0') throw new Error(`${path}: status ${status}: ${decodeURIComponent(text)}`);
    return Buffer.concat(chunks).subarray(prefixBytes);
  };
  return { runtime: bind(send, RuntimeService), image: bind(send, ImageService), close: () => session.close() };
}
