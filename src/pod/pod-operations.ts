/**
 * Operations on pod sandboxes: run, stop, remove, and the repair of what earlier engines left. In: requests. Out: records, calls of
 * the ports, events. The record is stored before the host is touched, and an undo is registered before its step.
 */
import { type PodSandboxId, RuntimeError, encodeId, encodeJson, podSandboxId, withRollback, wrapError } from '#core';
import { type EngineState, endOf } from './engine-state.ts';
import { defaultHostname, encodeHosts, encodeResolvConf } from './files.ts';
import { JoinedCreates, abandonable } from './joins.ts';
import { checkPodLabels, podMountLabel } from './labels.ts';
import type { NetworkAttachment, OpaquePlan, PodFiles, Sandbox, SandboxDriver, SandboxRequest } from './ports.ts';
import { type ContainerRecord, type PodRecord, podKey } from './store.ts';
import type { PodSandboxConfig } from './types.ts';
import { finishPodUpdate, finishUpdate, limitsOfPod } from './update-operations.ts';
import { planResources } from './runtime-spec.ts';
import { containerOfLease, releaseImages } from './volumes.ts';

/** Of a container whose end nobody saw, which is neither success nor a signal. Source: containerd. */
const unseenExitCode = 255;

/** One per engine. Ids may be shortened to a unique prefix; every method rejects with RuntimeError. */
export class PodOperations {
  readonly #state: EngineState;
  readonly #creates = new JoinedCreates<PodSandboxId>('pod sandbox');

  constructor(state: EngineState) {
    this.#state = state;
  }

  /** Settles when no pod is being created. */
  async idle(): Promise<void> {
    await this.#creates.idle();
  }

  async run(config: PodSandboxConfig, options: { readonly runtimeHandler?: string; readonly foreground?: boolean } = {}, signal?: AbortSignal): Promise<PodSandboxId> {
    const handler = options.runtimeHandler === undefined || options.runtimeHandler === '' ? this.#state.deps.defaultHandler : options.runtimeHandler;
    const driver = this.#state.driver(handler);
    const key = podKey(config);
    const request = { config, handler };
    return this.#creates.run(
      key,
      request,
      async () => {
        const existing = this.#state.store.podByKey(key);
        if (existing !== undefined) {
          if (existing.state === 'ready' && encodeJson({ config: existing.config, handler: existing.runtimeHandler }) === encodeJson(request)) return existing.id;
          throw new RuntimeError(
            'alreadyExists',
            `run pod sandbox ${key}: exists as ${existing.id}${existing.state === 'ready' ? ' with another configuration' : ', which is not ready'}`,
          );
        }
        checkPodLabels(config.security, this.#state.deps.defaults);
        return this.#createPod(driver, { config, handler, foreground: options.foreground === true });
      },
      signal,
    );
  }

  async #createPod(driver: SandboxDriver, { config, handler, foreground }: { config: PodSandboxConfig; handler: string; foreground: boolean }): Promise<PodSandboxId> {
    const { clock, network } = this.#state.deps;
    const id = podSandboxId(encodeId(clock.randomBytes(32)));
    const hostNetwork = config.security.namespaces.network === 'node';
    const hostname = config.hostname !== '' ? config.hostname : hostNetwork ? this.#state.deps.defaults.nodeHostname : defaultHostname(config.metadata.name);
    const request: SandboxRequest = { ...requestOf({ id, config, hostname, foreground }), ...podMountLabel(config, id, this.#state.deps.defaults) };
    try {
      await withRollback(async (rollback) => {
        let pod: PodRecord = { id, config, hostname, state: 'creating', createdAtNs: clock.nowNs(), runtimeHandler: handler, foreground, sandbox: driver.plan(request) };
        rollback.defer('forget the pod', async () => this.#state.store.deletePod(id));
        this.#state.store.putPod(pod);
        rollback.defer('clean up the sandbox', async () => driver.cleanUp(pod.sandbox, []));
        const sandbox = await driver.prepare(pod.sandbox, request);
        rollback.defer('end the sandbox', async () => sandbox.shutdown());
        pod = { ...pod, sandbox: sandbox.record };
        const subscribed = sandbox.onProcessEnd((end) => this.#state.onProcessEnd(end));
        // Waited for below; where the network fails first, that is the error to tell.
        subscribed.catch(() => undefined);
        if (!hostNetwork) {
          rollback.defer('detach the network', async () => network.detach(id));
          const startMs = clock.monotonicMs();
          const attachment = await this.#attach(pod, sandbox);
          pod = { ...pod, attachment, networkMs: clock.monotonicMs() - startMs };
        } else {
          await sandbox.commit(await this.#podFiles(pod), config.sysctls);
        }
        await subscribed;
        this.#state.store.putPod({ ...pod, state: 'ready' });
        this.#watch(id, sandbox);
      });
    } catch (error) {
      throw wrapError(`run pod sandbox ${config.metadata.namespace}/${config.metadata.name}`, error);
    }
    this.#state.publish({ kind: 'podCreated', podSandboxId: id });
    return id;
  }

  /** Attaches the network. Its plan and the pod's files, which hold the address, go to the sandbox together. */
  async #attach(pod: PodRecord, sandbox: Sandbox): Promise<NetworkAttachment> {
    const { config } = pod;
    let isCommitted = false;
    const execute = async (plan: OpaquePlan, attachment?: NetworkAttachment): Promise<void> => {
      if (attachment === undefined) return sandbox.execute(plan);
      isCommitted = true;
      return sandbox.commit(await this.#podFiles({ ...pod, attachment }), config.sysctls, plan);
    };
    const attachment = await this.#state.deps.network.attach(
      { podId: pod.id, portMappings: config.portMappings, config },
      execute,
      pod.foreground ? async (undo) => sandbox.deposit(undo) : undefined,
    );
    if (!isCommitted) await sandbox.commit(await this.#podFiles({ ...pod, attachment }), config.sysctls);
    return attachment;
  }

  async #podFiles(pod: PodRecord): Promise<PodFiles> {
    const { defaults } = this.#state.deps;
    const hostNetwork = pod.config.security.namespaces.network === 'node';
    const dns = pod.config.dns ?? (await defaults.readHostDns());
    return {
      hosts: encodeHosts(pod.config, pod.hostname, pod.attachment?.ips[0], hostNetwork ? await defaults.readHostHosts() : undefined),
      resolvConf: encodeResolvConf(dns),
      hostname: `${pod.hostname}\n`,
    };
  }

  async stop(id: string, signal?: AbortSignal): Promise<void> {
    const pod = this.#state.store.findPod(id);
    if (pod === undefined || pod.state === 'creating') return;
    const stopped = this.#state.locks.run(pod.id, async () => this.#stopPod(pod.id));
    await (signal === undefined ? stopped : abandonable(stopped, signal));
  }

  async #stopPod(id: string): Promise<void> {
    const pod = this.#state.store.findPod(id);
    if (pod === undefined) return;
    const wasReady = pod.state === 'ready';
    // Recorded first: a crash from here on is finished by reconcile.
    if (wasReady) this.#state.store.putPod({ ...pod, state: 'notReady' });
    const sandbox = this.#state.sandboxes.get(id);
    await this.#end(pod, sandbox);
    this.#state.deps.records.transaction(() => {
      if (sandbox !== undefined) {
        this.#state.sandboxes.delete(id);
        this.#state.endContainers(id, { exitCode: 137, reason: 'Error', message: '' });
      }
      if (pod.attachment !== undefined) this.#state.store.putPod(withoutAttachment({ ...pod, state: 'notReady' }));
    });
    // One that a failed stop left is told now.
    if (wasReady || sandbox !== undefined) this.#state.publish({ kind: 'podStopped', podSandboxId: pod.id });
  }

  /** Ends the sandbox and detaches the network: where both are there, the sandbox runs the network's plan as its last act. */
  async #end(pod: PodRecord, sandbox: Sandbox | undefined): Promise<void> {
    const { network } = this.#state.deps;
    let isEnded = sandbox === undefined;
    const shutdown = async (plan?: OpaquePlan): Promise<void> => {
      isEnded = true;
      await sandbox?.shutdown(plan);
    };
    // Asked even where an earlier engine found the pod dead: what the network could not undo then is still recorded there.
    if (!pod.sandbox.hostNetwork) await network.detach(pod.id, isEnded ? undefined : shutdown);
    if (!isEnded) await shutdown();
  }

  async remove(id: string, signal?: AbortSignal): Promise<void> {
    const pod = this.#state.store.findPod(id);
    if (pod === undefined || pod.state === 'creating') return;
    const removed = this.#state.locks.run(pod.id, async () => {
      await this.#stopPod(pod.id);
      const last = this.#state.store.findPod(pod.id);
      if (last === undefined) return;
      await this.#state.driver(pod.runtimeHandler).cleanUp(
        pod.sandbox,
        this.#state.store.containers(pod.id).map((container) => container.id),
      );
      await this.#forgetPod(last);
      this.#state.publish({ kind: 'podRemoved', podSandboxId: pod.id }, last);
    });
    await (signal === undefined ? removed : abandonable(removed, signal));
  }

  async #forgetPod(pod: PodRecord): Promise<void> {
    const { records, images } = this.#state.deps;
    const containers = this.#state.store.containers(pod.id);
    records.transaction(() => {
      for (const container of containers) {
        releaseImages(images, container);
        this.#state.store.deleteContainer(container.id);
      }
      this.#state.store.deletePod(pod.id);
    });
    for (const container of containers) this.#state.publish({ kind: 'containerRemoved', podSandboxId: pod.id, containerId: container.id }, pod);
  }

  /** Repairs what earlier owners left: re-attaches live sandboxes, records the ends of dead ones, removes their remains. */
  async reconcile(): Promise<void> {
    await Promise.all(this.#state.store.pods().map((pod) => this.#reconcilePod(pod)));
    const podIds = new Set<string>(this.#state.store.pods().map((pod) => pod.id));
    for (const container of this.#state.store.containers()) if (!podIds.has(container.podId)) this.#state.store.deleteContainer(container.id);
    const containerIds = new Set<string>(this.#state.store.containers().map((container) => container.id));
    for (const lease of this.#state.deps.images.leases()) if (!containerIds.has(containerOfLease(lease))) this.#state.deps.images.release(lease);
    await this.#state.deps.network.reconcile(
      new Set(
        this.#state.store
          .pods()
          .filter((pod) => pod.state === 'ready')
          .map((pod) => pod.id),
      ),
    );
  }

  async #reconcilePod(pod: PodRecord): Promise<void> {
    const driver = this.#state.driver(pod.runtimeHandler);
    const request = requestOf(pod);
    const sandbox = pod.state === 'ready' && !pod.foreground ? await driver.reattach(pod.sandbox, request) : undefined;
    if (sandbox !== undefined) {
      await this.#adopt(pod, sandbox);
      return;
    }
    for (const container of this.#state.store.containers(pod.id)) this.#recordUnseenEnd(container);
    await driver.cleanUp(
      pod.sandbox,
      this.#state.store.containers(pod.id).map((container) => container.id),
    );
    // Its network is undone by the network's own repair, which comes after that of the pods.
    // A foreground pod belonged to its starter: with that gone, nobody will ask for it again.
    if (pod.state === 'creating' || pod.foreground) await this.#forgetPod(pod);
    else this.#state.store.putPod(withoutAttachment({ ...pod, state: 'notReady' }));
  }

  #recordUnseenEnd(container: ContainerRecord): void {
    const { store, deps } = this.#state;
    // One that was never made has no end; nobody was told its id.
    if (container.state === 'creating') {
      releaseImages(deps.images, container);
      store.deleteContainer(container.id);
      return;
    }
    this.#state.recordEnd(container.id, { exitCode: unseenExitCode, reason: 'Unknown', message: 'the sandbox ended while no engine was watching', endedAtNs: deps.clock.nowNs() });
  }

  async #adopt(pod: PodRecord, sandbox: Sandbox): Promise<void> {
    this.#watch(pod.id, sandbox);
    await sandbox.onProcessEnd((end) => this.#state.onProcessEnd(end));
    await finishPodUpdate(this.#state, sandbox, pod);
    const processes = new Map((await sandbox.processes()).map((process) => [process.processId, process]));
    for (const { id } of this.#state.store.containers(pod.id)) {
      // As it is now: it may have ended while another one was looked after.
      const container = this.#state.store.findContainer(id);
      if (container === undefined || container.state === 'exited') continue;
      const process = processes.get(id);
      if (process === undefined || container.state === 'creating') {
        await sandbox.removeContainer(container.id).catch((error: unknown) => this.#state.deps.report(error));
        releaseImages(this.#state.deps.images, container);
        this.#state.store.deleteContainer(container.id);
      } else if (process.state === 'ended') {
        this.#state.recordEnd(container.id, endOf(process));
      } else {
        this.#state.expectEnd(container.id);
        if (process.state === 'running' && container.state === 'created')
          this.#state.store.moveContainer(container.id, { state: 'running', startedAtNs: process.startedAtNs, pid: process.pid });
        await finishUpdate(this.#state, sandbox, container);
      }
    }
  }

  /** Takes a live sandbox; when its shim goes without being asked, its containers are recorded as killed and its remains removed. */
  #watch(podId: string, sandbox: Sandbox): void {
    this.#state.sandboxes.set(podId, sandbox);
    void sandbox.ended
      .then(async () => {
        if (this.#state.sandboxes.get(podId) === sandbox) await this.#state.locks.run(podId, async () => this.#sandboxLost(podId, sandbox));
      })
      .catch((error: unknown) => this.#state.deps.report(error));
  }

  async #sandboxLost(podId: string, sandbox: Sandbox): Promise<void> {
    const pod = this.#state.store.findPod(podId);
    if (this.#state.sandboxes.get(podId) !== sandbox || pod === undefined) return;
    this.#state.sandboxes.delete(podId);
    this.#state.store.putPod({ ...pod, state: 'notReady' });
    await this.#state.driver(pod.runtimeHandler).cleanUp(pod.sandbox);
    this.#state.endContainers(podId, { exitCode: 137, reason: 'Error', message: "the pod's shim ended" });
    // What the network cannot undo now stays recorded there, for the pod's removal.
    await this.#state.deps.network.detach(pod.id).catch((error: unknown) => this.#state.deps.report(error));
    this.#state.store.putPod(withoutAttachment({ ...pod, state: 'notReady' }));
    this.#state.publish({ kind: 'podStopped', podSandboxId: pod.id });
  }
}

function requestOf(pod: Pick<PodRecord, 'id' | 'config' | 'hostname' | 'foreground'>): SandboxRequest {
  // Those of its creation: by them its containers find the groups that it was given.
  const resources = limitsOfPod({ config: pod.config });
  return { podId: pod.id, config: pod.config, hostname: pod.hostname, foreground: pod.foreground, ...(resources === undefined ? {} : { resources: planResources(resources, []) }) };
}

function withoutAttachment({ attachment: _attachment, ...pod }: PodRecord): PodRecord {
  return pod;
}
