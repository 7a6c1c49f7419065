/**
 * The native sandbox class: our own interpreter on the host's kernel. In: the pod layer's requests. Out: sandboxes. It holds no
 * record; a SandboxRecord is all it needs to find a sandbox again or to remove what one left.
 */
import { type Clock, type ContainerId, RuntimeError, encodeId, errorCode } from '#core';
import type { ContainerRequest, Sandbox, SandboxDriver, SandboxRecord, SandboxRequest } from '#pod';
import { type Plan, type Step, errno, explainPlan, noSlot } from '#plan';
import { planContainer, planContainerRemoval } from '#runtime';
import { GroupReader, type HostFacts, type Launcher, connectShim, makeDirectory, makeSkeleton, moveToTrash, removeDirectory } from '#system';
import { hookPlaceOf, runPoststop } from './hooks.ts';
import { type NativeLayout, containerPaths, skeletonEntries } from './layout.ts';
import { type NativeFeatures, probeFeatures } from './features.ts';
import { type PodContext, containerInput, planPod, planRelease, planWritableLayer, prepend, shimCgroups, userMappingsOf } from './native-plans.ts';
import { type ContainerMemory, type KnownContainer, NativeSandbox, prepareNamespaces } from './native-sandbox.ts';

/** What the driver is wired with. */
export interface NativeDriverParts {
  readonly launcher: Launcher;
  readonly host: HostFacts;
  readonly clock: Clock;
  readonly layout: NativeLayout;
  readonly memory: ContainerMemory;
  /** Failures of background work. */
  readonly report: (error: unknown) => void;
}

/** Ninety-six random bits of the id: a socket's path has room for 107 bytes. */
const podDirectoryCharacters = 24;
/** How long a shim of a dead engine may take to end. */
const farewellTimeoutMs = 5_000;
const removeTimeoutMs = 5_000;
/** Removing trees keeps a processor busy, and whoever removes a pod often makes the next one now. */
const trashDelayMs = 50;
const treesPerRunMax = 256;

/** The driver of the runtime handler `native`; call `open` before and `close` after use. */
export class NativeDriver implements SandboxDriver {
  readonly name = 'native';
  #features: Promise<NativeFeatures> | undefined;
  readonly #parts: NativeDriverParts;
  #isCgroupMade: Promise<void> | undefined;
  /** One for all pods, so that its bounds hold for all. */
  readonly #reader: GroupReader;
  #trashSerial = 0;
  /** Trees on their way out, and the one run that removes some of them. */
  #trash: string[] = [];
  #removal: Promise<void> | undefined;
  /** Pods whose shim ended as it was told to: nothing is left of them but writable layers. */
  readonly #released = new Set<string>();

  constructor(parts: NativeDriverParts) {
    this.#parts = parts;
    this.#reader = new GroupReader(parts.clock);
  }

  /** Found by trials, once. */
  async features(): Promise<NativeFeatures> {
    this.#features ??= probeFeatures((plan) => this.#parts.launcher.runOnce(plan));
    return this.#features;
  }

  plan({ podId, config, foreground }: SandboxRequest): SandboxRecord {
    const { layout, clock } = this.#parts;
    const parent = config.cgroupParent === '' ? layout.cgroup : config.cgroupParent.replace(/\/+$/, '');
    return {
      podId,
      cgroupPath: `${parent}/${podId}`,
      secret: encodeId(clock.randomBytes(32)),
      podDir: `${layout.pods}/${podId.slice(0, podDirectoryCharacters)}`,
      hostNetwork: config.security.namespaces.network === 'node',
      foreground,
      shimPid: 0,
    };
  }

  async prepare(record: SandboxRecord, request: SandboxRequest): Promise<Sandbox> {
    const { host, layout, launcher } = this.#parts;
    const context: PodContext = { host, layout, record, request };
    // Compiled before anything exists, so that a bad request leaves nothing.
    planPod(context);
    if (userMappingsOf(request) !== undefined && !(await this.features()).userNamespaces)
      throw new RuntimeError('failedPrecondition', 'config.linux.security_context.namespace_options.userns_options: the kernel makes no user namespaces here');
    await this.#makeShimCgroup();
    let prepared: Promise<void> | undefined;
    const shim = await launcher.startShim({
      podId: record.podId,
      podDir: record.podDir,
      secret: Buffer.from(record.secret, 'hex'),
      cgroupFiles: shimCgroups(host, layout).files,
      follow: (connection) => {
        prepared = prepareNamespaces(connection, context);
        prepared.catch(() => undefined);
      },
    });
    const sandbox = this.#sandboxOf(context, shim);
    try {
      await prepared;
      await sandbox.startPause();
      return sandbox;
    } catch (error) {
      await sandbox.shutdown().catch((failure: unknown) => this.#parts.report(failure));
      throw error;
    }
  }

  #sandboxOf(context: PodContext, shim: ConstructorParameters<typeof NativeSandbox>[0]['shim']): NativeSandbox {
    const { clock, memory, report } = this.#parts;
    return new NativeSandbox({
      context,
      shim,
      clock,
      reader: this.#reader,
      report,
      memory,
      onReleased: () => void this.#released.add(context.record.podId),
      discardLayer: async (containerId) => this.#discard(containerPaths(this.#parts.layout, { podId: context.request.podId, containerId }).directory),
    });
  }

  /** Once per engine; a removed one is made again by the next engine. */
  async #makeShimCgroup(): Promise<void> {
    const { host, layout, launcher } = this.#parts;
    this.#isCgroupMade ??= launcher.runOnce({ sections: [shimCgroups(host, layout).make] });
    await this.#isCgroupMade.catch((error: unknown) => {
      this.#isCgroupMade = undefined;
      throw error;
    });
  }

  async reattach(record: SandboxRecord, request: SandboxRequest): Promise<Sandbox | undefined> {
    const { host, layout } = this.#parts;
    try {
      const shim = await connectShim({ podDir: record.podDir, secret: Buffer.from(record.secret, 'hex') });
      return this.#sandboxOf({ host, layout, record, request }, shim);
    } catch (error) {
      if (errorCode(error) === 'unavailable' || errorCode(error) === 'notFound') return undefined;
      throw error;
    }
  }

  async cleanUp(record: SandboxRecord, containerIds?: readonly ContainerId[]): Promise<void> {
    const { host, layout, launcher, memory } = this.#parts;
    if (!this.#released.delete(record.podId)) {
      await this.#endShim(record);
      await launcher.runOnce(planRelease({ host, record }));
      await removeDirectory(record.podDir);
    }
    if (containerIds === undefined) return;
    for (const id of containerIds) await this.#runPoststop(record, id);
    await this.#discard(`${layout.containers}/${record.podId}`);
    for (const id of containerIds) memory.delete(id);
  }

  /** A shim that is still there gets a farewell; one that cleans up by itself is given the time for it. */
  async #endShim(record: SandboxRecord): Promise<void> {
    const { clock, host } = this.#parts;
    const shim = await connectShim({ podDir: record.podDir, secret: Buffer.from(record.secret, 'hex') }).catch((error: unknown) => {
      if (errorCode(error) === 'unavailable' || errorCode(error) === 'notFound') return undefined;
      throw error;
    });
    if (shim === undefined) return;
    const ended = shim.ended;
    await shim.shutdown(planRelease({ host, record })).catch((error: unknown) => {
      if (errorCode(error) !== 'unavailable') throw error;
    });
    const cancel = new AbortController();
    await Promise.race([ended, clock.sleep(farewellTimeoutMs, cancel.signal).catch(() => undefined)]);
    cancel.abort();
  }

  /** For a container whose shim is gone. */
  async #runPoststop(record: SandboxRecord, containerId: ContainerId): Promise<void> {
    const { layout, launcher, memory, report } = this.#parts;
    // SAFETY: the sandboxes of this class are the only writers of this memory.
    const known = memory.get(containerId) as KnownContainer | undefined;
    const runner = { run: async (plan: Plan) => launcher.runOnce(plan), report };
    await runPoststop(runner, hookPlaceOf(layout, { podId: record.podId, containerId }), known, (next) => memory.put(containerId, next));
  }

  async cleanUpContainer(record: SandboxRecord, containerId: ContainerId): Promise<void> {
    const { host, layout, launcher, memory } = this.#parts;
    await launcher.runOnce(planContainerRemoval(host, { path: `${record.cgroupPath}/${containerId}` }, { timeoutMs: removeTimeoutMs }));
    await this.#runPoststop(record, containerId);
    await this.#discard(containerPaths(layout, { podId: record.podId, containerId }).directory);
    memory.delete(containerId);
  }

  /** Out of sight at once, off the disk in the background. What a crash leaves in the trash goes at the next start. */
  async #discard(directory: string): Promise<void> {
    this.#trashSerial += 1;
    const { clock, layout } = this.#parts;
    const moved = await moveToTrash(directory, { trash: layout.trash, name: `${clock.nowNs()}-${this.#trashSerial}` });
    if (moved !== undefined) this.#removeLater(moved);
  }

  #removeLater(path: string): void {
    this.#trash.push(path);
    this.#removal ??= this.#emptyTrash().finally(() => {
      this.#removal = undefined;
    });
  }

  /** One child at a time. */
  async #emptyTrash(): Promise<void> {
    const { clock, launcher, report } = this.#parts;
    while (this.#trash.length > 0) {
      await clock.sleep(trashDelayMs);
      const steps = this.#trash.splice(0, treesPerRunMax).map((path): Step => ({ kind: 'removeTree', dir: noSlot, path }));
      await launcher.runOnce({ sections: [{ actor: 'host', steps }] }).catch(report);
    }
  }

  /** Directories that must exist, and the trash of earlier engines. */
  async open(trash: readonly string[]): Promise<void> {
    const { layout } = this.#parts;
    for (const path of [layout.pods, layout.containers, layout.trash, layout.rootfs]) await makeDirectory(path);
    await makeSkeleton(layout.skeleton, skeletonEntries);
    for (const path of trash) this.#removeLater(path);
  }

  /** Waits for removals under way, and takes away what only pods need where there is none. */
  async close(): Promise<void> {
    await this.#removal;
    const { host, layout, launcher } = this.#parts;
    const empty = [layout.rootfs, layout.pods].map((path): Step => ({ kind: 'removeDirectory', dir: noSlot, path, ignore: [errno.noEntry, errno.notEmpty, errno.busy] }));
    await launcher.runOnce({ sections: [{ actor: 'host', steps: [...shimCgroups(host, layout).remove, ...empty] }] });
  }

  explainSandbox(request: SandboxRequest, { showSecrets }: { readonly showSecrets: boolean }): readonly string[] {
    const { host, layout } = this.#parts;
    const plans = planPod({ host, layout, record: this.plan(request), request });
    return [
      ...explainPlan(plans.prepare, { showSecrets }),
      ...(plans.pause === undefined ? [] : explainPlan(plans.pause, { showSecrets })),
      ...(plans.sysctls === undefined ? [] : explainPlan(plans.sysctls, { showSecrets })),
    ];
  }

  /** With the numbers of the request, since nobody looks into the root; a name stands as root. */
  explainContainer(request: SandboxRequest, container: ContainerRequest, { showSecrets }: { readonly showSecrets: boolean }): readonly string[] {
    const { host, layout } = this.#parts;
    const context: PodContext = { host, layout, record: this.plan(request), request };
    const process = container.runtimeSpec.process;
    if (process === undefined) return [];
    const number = (text: string): number => (/^\d+$/.test(text) ? Number(text) : 0);
    const user = { uid: number(container.identity.user), gid: number(container.identity.group), additionalGids: container.identity.supplementalGroups };
    const input = containerInput(context, { ...container, runtimeSpec: { ...container.runtimeSpec, process: { ...process, user } } });
    return explainPlan(prepend(planWritableLayer(context, container), planContainer({ ...input, askIdentity: false })), { showSecrets });
  }
}
