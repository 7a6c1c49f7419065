/** podman as its users have it, with the runtime under test. In: a place of its own. Out: commands, containers in the background. */
import assert from 'node:assert/strict';
import { type Finished } from './berth-host.ts';
import { CallerPlace, type CommandOptions, type Running, runtime, start } from './callers-host.ts';

/** With busybox and two users. */
export const image = 'localhost/busybox:1';

/** No network unless a test asks for one. */
const without = (options: readonly string[]): string[] => (options.includes('--network') ? [] : ['--network', 'none']);

/** podman with a store, a configuration and a state of its own. */
export class Podman implements AsyncDisposable {
  readonly place = new CallerPlace();
  readonly #env: Readonly<Record<string, string>>;

  constructor() {
    const { place } = this;
    // podman asks for JSON lines of the runtimes that it knows, and shows the last error of them; others are named here. Without systemd; raising limits needs CAP_SYS_RESOURCE, which not every root has.
    const conf = `[containers]\ndefault_ulimits=[]\nlog_driver="k8s-file"\npids_limit=0\n[engine]\nruntime_supports_json=["runc","crun","berth-oci"]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n[network]\nnetwork_config_dir="${place.scratch('networks')}"\n`;
    const storage = `[storage]\ndriver="overlay"\ngraphroot="${place.scratch('store')}"\nrunroot="/run/containers/storage"\n`;
    this.#env = { CONTAINERS_CONF: place.write('containers.conf', conf), CONTAINERS_STORAGE_CONF: place.write('storage.conf', storage) };
  }

  /** `before`: words in front of podman's, such as `unshare -n`. */
  start(args: readonly string[], options: CommandOptions = {}, before: readonly string[] = []): Running {
    return start([...before, 'podman', '--runtime', runtime, ...args], { ...options, env: this.#env });
  }

  async podman(args: readonly string[], options: CommandOptions = {}): Promise<Finished> {
    return this.start(args, options).finished;
  }

  /** Standard output of a command that must succeed, without the last line end. */
  async ok(args: readonly string[], options: CommandOptions = {}): Promise<string> {
    const { status, stdout, stderr } = await this.podman(args, options);
    assert.equal(status, 0, `podman ${args.join(' ')}: status ${status}: ${stderr}${stdout}`);
    return stdout.trimEnd();
  }

  /** `podman run` of a shell script in a container that is removed afterwards. */
  async shell(script: string, options: readonly string[] = [], more: CommandOptions = {}): Promise<Finished> {
    return this.podman(['run', '--rm', '--cgroup-parent', this.place.cgroupParent, ...without(options), ...options, image, 'sh', '-c', script], more);
  }

  /** A container in the background; gives its first process. */
  async detached(name: string, script: string, options: readonly string[] = []): Promise<number> {
    await this.ok(['run', '-d', '--name', name, '--cgroup-parent', this.place.cgroupParent, '--network', 'none', '--stop-timeout', '2', ...options, image, 'sh', '-c', script]);
    return Number(await this.inspect(name, '{{.State.Pid}}'));
  }

  async inspect(name: string, format: string): Promise<string> {
    return this.ok(['inspect', '--type', 'container', '--format', format, name]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.ok(['rm', '-a', '-f', '-t', '0']);
    await this.ok(['pod', 'rm', '-a', '-f']);
    await using _place = this.place;
  }
}

/** Waits in a way that TERM ends at once with status 3. */
export const waiting = "trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
