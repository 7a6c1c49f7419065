/** A connection whose incoming bytes pass an AuthorityRewriter. In: an accepted socket. Out: a Duplex for the HTTP/2 server. */
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { AuthorityRewriter } from './authority.ts';

type Callback = (error?: Error | null) => void;

/** What the HTTP/2 server sees instead of the socket. Destroying either destroys both. */
export class FrontConnection extends Duplex {
  readonly #socket: Socket;
  readonly #rewriter = new AuthorityRewriter();

  constructor(socket: Socket) {
    super({ allowHalfOpen: false });
    this.#socket = socket;
    socket.on('data', (bytes: Buffer) => {
      for (const piece of this.#rewriter.push(bytes)) {
        if (!this.push(piece)) socket.pause();
      }
    });
    socket.on('end', () => this.push(null));
    socket.on('error', (error) => this.destroy(error));
    socket.on('close', () => this.destroy());
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: Callback): void {
    this.#socket.write(bytes, done);
  }

  override _writev(chunks: { readonly chunk: Buffer }[], done: Callback): void {
    this.#socket.cork();
    for (const { chunk } of chunks.slice(0, -1)) this.#socket.write(chunk);
    this.#socket.write(chunks.at(-1)?.chunk ?? Buffer.alloc(0), done);
    this.#socket.uncork();
  }

  override _final(done: Callback): void {
    this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: Callback): void {
    this.#socket.destroy();
    done(error);
  }
}
