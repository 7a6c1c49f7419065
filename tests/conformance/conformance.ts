/**
 * One run of the conformance suite from an empty machine to a judgement. In: who is judged, how, and which specs. Out: outcomes, differences from
 * expected.json, and what the suite left behind.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { type SpecOutcome, type Transport, runCritest } from './critest.ts';
import { compareOutcomes, readConformanceFacts, readExpected } from './expected.ts';
import { type NetworkName, type PeerName, type RunningServer, pluginBridge, startRegistry, startServer } from './servers.ts';

const critest = new URL('../../build/go/critest', import.meta.url).pathname;

/** What one run is. */
export interface ConformanceRun {
  readonly peer: PeerName;
  readonly network: NetworkName;
  readonly transport: Transport;
  readonly runtimeHandler?: string;
  readonly focus?: string;
  /** Order of the specs; by default one that never changes. */
  readonly seed?: number;
  readonly parallel?: number;
  readonly timeoutMs?: number;
}

/** What came of it. */
export interface ConformanceResult {
  readonly outcomes: readonly SpecOutcome[];
  /** In words, one a line; none means that the server conforms. */
  readonly differences: readonly string[];
  readonly durationMs: number;
}

/** Name of a run, for reports and files. */
export const nameOf = ({ peer, network, transport, runtimeHandler }: ConformanceRun): string =>
  [peer, network, transport, ...(runtimeHandler === undefined ? [] : [runtimeHandler])].join('-');

/** Pods and containers that the suite did not remove; there is none unless a spec failed in the middle. */
async function listLeftovers({ client }: RunningServer): Promise<readonly string[]> {
  const { items } = await client.call(RuntimeService.method.listPodSandbox, {});
  const { containers } = await client.call(RuntimeService.method.listContainers, {});
  const left = [...items.map(({ id, metadata }) => `pod ${id} (${metadata?.name})`), ...containers.map(({ id, metadata }) => `container ${id} (${metadata?.name})`)];
  for (const { id } of items) {
    await client.call(RuntimeService.method.stopPodSandbox, { podSandboxId: id });
    await client.call(RuntimeService.method.removePodSandbox, { podSandboxId: id });
  }
  return left;
}

/** The bridge that the plugins made is the proof that they were asked. It goes, so that the next run has to prove it again. */
function removePluginBridge(): readonly string[] {
  try {
    execFileSync('ip', ['link', 'delete', pluginBridge], { stdio: 'ignore' });
    return [];
  } catch {
    return [`the plugins made no bridge ${pluginBridge}: pods were connected in another way`];
  }
}

/** A scratch directory with a registry in it, for any number of runs. */
export class ConformanceHost implements AsyncDisposable {
  readonly directory: string;
  readonly certsDir: string;
  readonly #registry: AsyncDisposable;
  #serial = 0;

  private constructor(directory: string, registry: AsyncDisposable & { readonly certsDir: string }) {
    this.directory = directory;
    this.certsDir = registry.certsDir;
    this.#registry = registry;
  }

  /** Throws where tests/conformance/prepare.sh did not run before. */
  static async open(): Promise<ConformanceHost> {
    if (!existsSync(critest)) throw new Error(`open ${critest}: is not there; tests/conformance/prepare.sh builds it`);
    const directory = mkdtempSync('/var/tmp/berth-conformance-');
    // What is below it is reached from user namespaces, whose root is nobody here.
    chmodSync(directory, 0o755);
    try {
      return new ConformanceHost(directory, await startRegistry(directory));
    } catch (error) {
      rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /** An empty directory. */
  scratch(): string {
    this.#serial += 1;
    const path = join(this.directory, String(this.#serial));
    mkdirSync(path);
    return path;
  }

  /** Starts the server, runs the suite against it, ends the server. Throws when the suite could not be run at all. */
  async run(run: ConformanceRun): Promise<ConformanceResult> {
    const startedAt = performance.now();
    const scratch = this.scratch();
    const suite = join(scratch, 'suite');
    mkdirSync(suite);
    symlinkSync(critest, join(suite, 'critest.test'));
    await using server = await startServer(scratch, { peer: run.peer, network: run.network, certsDir: this.certsDir });
    try {
      const outcomes = await runCritest({
        socketPath: server.socketPath,
        transport: run.transport,
        directory: suite,
        // Most of a spec is waiting: the suite looks at a container every four seconds.
        parallel: run.parallel ?? Math.max(4, availableParallelism()),
        seed: run.seed ?? 1,
        timeoutMs: run.timeoutMs ?? 900_000,
        ...(run.focus === undefined ? {} : { focus: run.focus }),
        ...(run.runtimeHandler === undefined ? {} : { runtimeHandler: run.runtimeHandler }),
      });
      const differences = compareOutcomes(outcomes, {
        expected: readExpected(),
        facts: readConformanceFacts(),
        peer: run.peer,
        transport: run.transport,
        complete: run.focus === undefined,
      });
      const left = await listLeftovers(server);
      return {
        outcomes,
        differences: [...differences, ...left.map((what) => `left behind: ${what}`), ...(run.network === 'cni' ? removePluginBridge() : [])],
        durationMs: performance.now() - startedAt,
      };
    } catch (error) {
      throw new Error(`${nameOf(run)}: ${error instanceof Error ? error.message : String(error)}\n${readFileSync(server.logPath, 'utf8').slice(-4000)}`, { cause: error });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#registry[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
