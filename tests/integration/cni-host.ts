/**
 * A daemon whose pods get their network by CNI plugins. In: directories of plugins, a configuration. Out: a host with a configuration
 * directory of its own and plugins that are shell scripts, beside the real ones. Whatever plugins keep lies below the test's directory.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MessageShape } from '@bufbuild/protobuf';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox, patienceMs } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

/** Where Debian's package has its plugins. */
export const debianPlugins = '/usr/lib/cni';
/** Where `scripts/build-go-tools.sh cni` puts the newest ones. */
export const newestPlugins = new URL('../../build/go/cni', import.meta.url).pathname;

export const method = RuntimeService.method;

/** Standard output of a command, or its failure. */
export const shell = (command: string): string =>
  execFileSync('/bin/sh', ['-c', command], { encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });

/** Why plugins cannot be run here, or false. */
export function skipWithout(directory: string): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  return existsSync(`${directory}/bridge`) ? false : `no CNI plugins in ${directory}`;
}

/** Body of a script that gives the result before as its own. */
export const passOn = `case $CNI_COMMAND in
  ADD) echo "$input" | sed 's/.*"prevResult":\\({.*}\\)}$/\\1/' ;;
esac`;

/** Where a pod's namespace is pinned. */
export const pinOf = (podSandboxId: string): string => `/run/netns/berth-${podSandboxId.slice(0, 26)}`;
/** True where the path is a namespace, as this mount namespace sees it, and not the file that a pin leaves. */
export const isNamespace = (path: string): boolean => existsSync(path) && statfsSync(path).type === 0x6e736673;
/** Pods' namespaces that are pinned here. The directory is the host's, so files of other runs may lie in it. */
export const pins = (): string[] =>
  (existsSync('/run/netns') ? readdirSync('/run/netns') : []).map((name) => `/run/netns/${name}`).filter((path) => path.startsWith('/run/netns/berth-') && isNamespace(path));

/** Waits until the condition holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `not within ${patienceMs} ms: ${what}`);
    await sleep(50);
  }
}

/** A daemon in CNI mode. */
export class CniHost implements AsyncDisposable {
  readonly cri: CriHost;
  readonly directory: string;

  private constructor(cri: CriHost, directory: string) {
    this.cri = cri;
    this.directory = directory;
  }

  /** `plugins`: directory of real plugins, looked at after the test's own scripts. */
  static async open({ plugins, template }: { readonly plugins: string; readonly template?: (stateDirectory: string) => string }): Promise<CniHost> {
    const directory = `/var/tmp/berth-cni-${process.pid}-${Math.floor(performance.now())}`;
    for (const name of ['net.d', 'bin', 'state']) mkdirSync(`${directory}/${name}`, { recursive: true });
    Object.assign(process.env, { BERTH_NETWORK_MODE: 'cni', BERTH_CNI_CONFIG_DIR: `${directory}/net.d`, BERTH_CNI_BIN_DIRS: `${directory}/bin:${plugins}` });
    if (template === undefined) delete process.env['BERTH_CNI_TEMPLATE'];
    else {
      writeFileSync(`${directory}/template`, template(`${directory}/state`));
      process.env['BERTH_CNI_TEMPLATE'] = `${directory}/template`;
    }
    return new CniHost(await CriHost.open(), directory);
  }

  get configDir(): string {
    return `${this.directory}/net.d`;
  }

  /** Replaces the configuration by this list; undefined: none. */
  configure(list: Readonly<Record<string, unknown>> | undefined, name = '10-test.conflist'): void {
    for (const old of readdirSync(this.configDir)) rmSync(`${this.configDir}/${old}`);
    if (list !== undefined) writeFileSync(`${this.configDir}/${name}`, JSON.stringify(list));
  }

  /** A plugin that is a shell script. It gets its standard input as `$input`, and what it is called with is kept for `calls`. */
  script(name: string, body: string): void {
    const path = `${this.directory}/bin/${name}`;
    writeFileSync(
      path,
      `#!/bin/sh
input=$(cat)
if [ "$CNI_COMMAND" = VERSION ]; then echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'; exit 0; fi
printf '%s\\t%s\\t%s\\t%s\\n' "$CNI_COMMAND" "$(env | grep ^CNI_ | sort | tr '\\n' ' ')" "$input" "$$" >> ${this.directory}/state/${name}.calls
${body}
`,
    );
    chmodSync(path, 0o755);
  }

  /** Calls of a script: the command, its environment, its standard input. */
  calls(name: string): { readonly command: string; readonly env: string; readonly input: Record<string, unknown>; readonly pid: number }[] {
    const path = `${this.directory}/state/${name}.calls`;
    if (!existsSync(path)) return [];
    return readFileSync(path, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => {
        const [command = '', env = '', input = '{}', pid = '0'] = line.split('\t');
        // SAFETY: the engine writes an object on a plugin's standard input.
        return { command, env, input: JSON.parse(input) as Record<string, unknown>, pid: Number(pid) };
      });
  }

  forgetCalls(name: string): void {
    rmSync(`${this.directory}/state/${name}.calls`, { force: true });
  }

  async networkCondition(): Promise<{ readonly status: boolean; readonly reason: string; readonly message: string }> {
    const { status } = await this.cri.call(method.status, {});
    const condition = status?.conditions.find(({ type }) => type === 'NetworkReady');
    assert.ok(condition !== undefined);
    return { status: condition.status, reason: condition.reason, message: condition.message };
  }

  /** Waits until the network is not ready for this reason; an answer may be the last one while plugins are being asked. */
  async notReady(message: string | RegExp): Promise<void> {
    let last = '';
    await until(`the network is not ready: ${String(message)}`, async () => {
      const condition = await this.networkCondition();
      last = condition.message;
      return !condition.status && (typeof message === 'string' ? last === message : message.test(last));
    }).catch((error: unknown) => {
      throw new Error(`the condition says ${JSON.stringify(last)}`, { cause: error });
    });
  }

  /** Waits for NetworkReady. */
  async ready(): Promise<void> {
    await until('the network is ready', async () => (await this.networkCondition()).status);
  }

  async podStatus(podSandboxId: string): Promise<MessageShape<typeof method.podSandboxStatus.output>> {
    return this.cri.call(method.podSandboxStatus, { podSandboxId, verbose: true });
  }

  /** Addresses of a pod, the primary first. */
  async addresses(podSandboxId: string): Promise<string[]> {
    const { status } = await this.podStatus(podSandboxId);
    return [status?.network?.ip ?? '', ...(status?.network?.additionalIps ?? []).map(({ ip }) => ip)];
  }

  /** Standard output of a command in a container; fails where it does. */
  async exec(containerId: string, script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await this.cri.call(method.execSync, { containerId, cmd: [busybox, 'sh', '-c', script], timeout: 0n });
    assert.equal(exitCode, 0, `${script}: ${Buffer.from(stderr).toString()}`);
    return Buffer.from(stdout).toString();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.cri[Symbol.asyncDispose]();
    } finally {
      rmSync(this.directory, { recursive: true, force: true });
    }
  }
}
