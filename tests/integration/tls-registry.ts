/**
 * Certificates of a test's own authority, and Debian's docker-registry behind TLS. In: a directory. Out: files, and a registry that serves
 * a directory of content over https, with client certificates where asked for. Everything is on loopback.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort, shell } from './image-host.ts';

/** Files of one authority: `ca.crt`, and pairs made by `issue`. */
export class Authority {
  readonly dir: string;
  readonly caFile: string;

  constructor(dir: string) {
    this.dir = dir;
    this.caFile = join(dir, 'ca.crt');
    shell(
      `mkdir -p ${dir}; cd ${dir}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -subj /CN=test-authority -days 2 2>openssl.log`,
    );
  }

  /** A certificate and its key, for 127.0.0.1, localhost and registry.test, or for a client. */
  issue(name: string): { readonly certFile: string; readonly keyFile: string } {
    shell(
      `openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ${name}.key -out ${name}.csr -subj /CN=${name} 2>openssl.log
      printf 'subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test' > ${name}.ext
      openssl x509 -req -in ${name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ${name}.ext -out ${name}.crt 2>openssl.log`,
      this.dir,
    );
    return { certFile: join(this.dir, `${name}.crt`), keyFile: join(this.dir, `${name}.key`) };
  }
}

/** Debian's docker-registry over https. */
export class TlsRegistry implements AsyncDisposable {
  readonly address: string;
  readonly #child: ChildProcess;

  private constructor(address: string, child: ChildProcess) {
    this.address = address;
    this.#child = child;
  }

  /** `dataDir` may be that of another registry; `clientCaFile` makes it want a certificate of clients. */
  static async start(dir: string, authority: Authority, options: { readonly dataDir: string; readonly clientCaFile?: string }): Promise<TlsRegistry> {
    const port = await freePort();
    const { certFile, keyFile } = authority.issue(`server${port}`);
    const clients = options.clientCaFile === undefined ? '' : `, clientcas: [${options.clientCaFile}]`;
    const file = join(dir, `registry-${port}.yml`);
    writeFileSync(
      file,
      `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${options.dataDir}}}\nhttp: {addr: "127.0.0.1:${port}", tls: {certificate: ${certFile}, key: ${keyFile}${clients}}}\n`,
    );
    const child = spawn('docker-registry', ['serve', file], { stdio: 'ignore', env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } });
    const registry = new TlsRegistry(`127.0.0.1:${port}`, child);
    for (let tries = 0; tries < 600; tries += 1) {
      if (await answers(port)) return registry;
      await sleep(50);
    }
    await registry[Symbol.asyncDispose]();
    throw new Error('docker-registry does not answer');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((end) => this.#child.once('exit', end));
    if (this.#child.exitCode === null && this.#child.kill('SIGKILL')) await ended;
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((settle) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => void socket.end(() => settle(true)));
    socket.once('error', () => settle(false));
  });
}
