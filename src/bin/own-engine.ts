/**
 * The object graph of an engine that owns its state directory. In: a location and the launcher that holds its lock. Out: the
 * engine, reconciled. Everything is wired here by constructor arguments and nowhere else.
 */
import { readFileSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { RuntimeError, wrapError } from '#core';
import { ImageStore, RegistryConfiguration } from '#image';
import { BridgeNetwork, CniNetwork, cniFiles, networkHostReader } from '#network';
import { decodeSeccomp } from '#oci';
import { type ImageVolumePolicy, PodEngine, type RuntimeReadiness, type SpecDefaults, cdiWarnings, decodeResolvConf } from '#pod';
import { defaultCapabilities, defaultMaskedPaths, defaultReadonlyPaths, defaultSeccompProfile, nameCapabilities } from '#runtime';
import { NativeDriver } from '#sandbox';
import { type HostFacts, type Launcher, SqliteRecords, listDirectory, makeDirectory, readDevices, readHostFacts, removeDirectory, systemClock } from '#system';
import { CdiFiles } from './cdi-files.ts';
import { ContainerUsage } from './container-usage.ts';
import { type Location, engineFiles, hostNames, programFiles } from './locations.ts';
import { createNetworkPort, pluginSearchPath } from './network-port.ts';
import { securityDefaults } from './security-modules.ts';
import { createImagePort } from './ports.ts';
import type { Settings } from './settings.ts';

/** An engine and what has to be closed with it. */
export interface OwnEngine {
  readonly engine: PodEngine;
  readonly host: HostFacts;
  /** Ends foreground pods, leaves the others running, closes the records. The launcher stays with the caller. */
  close(): Promise<void>;
}

/** False where one of them has a file system of its own, or is not there yet and may get one. */
function isOneDisk(a: string, b: string): boolean {
  const [one, other] = [a, b].map((path) => statSync(path, { throwIfNoEntry: false })?.dev);
  return one !== undefined && one === other;
}

/** A small file of the host's own. Read at once: through libuv's threads it would be four trips on every pod's way. */
function readText(path: string, absent: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return absent;
  }
}

function specDefaults(host: HostFacts, imageVolumes: ImageVolumePolicy, cdi: CdiFiles): SpecDefaults {
  return {
    capabilities: defaultCapabilities,
    allCapabilities: nameCapabilities(host.capabilities.own).split(', '),
    maskedPaths: defaultMaskedPaths,
    readonlyPaths: defaultReadonlyPaths,
    seccomp: (capabilities) => defaultSeccompProfile({ capabilities, architecture: host.architecture }),
    readSeccompProfile: async (path) => {
      try {
        return decodeSeccomp(JSON.parse(await readFile(path, 'utf8')), path);
      } catch (error) {
        throw wrapError(`read seccomp profile ${path}`, error, error instanceof RuntimeError ? undefined : 'invalidArgument');
      }
    },
    readDevices,
    readCdiSpecs: async () => cdi.read(),
    imageVolumes,
    nodeHostname: hostname(),
    readHostDns: async () => decodeResolvConf(readText('/etc/resolv.conf', '')),
    readHostHosts: async () => readText('/etc/hosts', '127.0.0.1\tlocalhost\n'),
  };
}

/** Without its launcher an engine makes no pods; it is about to end then. */
function watchLauncher(launcher: Launcher): () => RuntimeReadiness {
  let readiness: RuntimeReadiness = { runtimeReady: true };
  void launcher.ended.then(() => {
    readiness = { runtimeReady: false, runtimeReason: 'LauncherEnded', runtimeMessage: 'the process that starts shims has ended' };
  });
  return () => readiness;
}

/** Opens everything below the location and repairs what earlier owners left. On failure everything opened is closed again. */
export async function openOwnEngine({
  location,
  launcher,
  settings,
  version,
  report,
}: {
  readonly location: Location;
  readonly launcher: Launcher;
  readonly settings: Settings;
  readonly version: string;
  readonly report: (error: unknown) => void;
}): Promise<OwnEngine> {
  const files = engineFiles(location);
  const names = hostNames(location);
  const host = readHostFacts();
  const records = new SqliteRecords(files.database);
  const readiness = watchLauncher(launcher);
  try {
    const runOnHost = launcher.runOnce.bind(launcher);
    const driver = new NativeDriver({
      launcher,
      host,
      clock: systemClock,
      report,
      layout: { pods: files.pods, containers: files.containers, trash: files.trash, skeleton: files.skeleton, rootfs: files.rootfs, cgroup: names.cgroup },
      memory: {
        put: (id, value) => records.put('native-container', id, value),
        get: (id) => records.get('native-container', id),
        delete: (id) => records.delete('native-container', id),
      },
    });
    await makeDirectory(files.images);
    await driver.open(await listDirectory(files.trash));
    const images = await ImageStore.open({
      stateDir: files.images,
      records,
      clock: systemClock,
      launcherSocket: launcher.socketPath,
      runOnHost,
      platform: { os: 'linux', architecture: host.architecture === 'arm64' ? 'arm64' : 'amd64' },
      workerPath: programFiles.imageWorker,
      registries: new RegistryConfiguration({ certsDirs: settings.images.certsDirs, env: process.env }),
      keepBlobs: settings.images.keepBlobs,
      allowForeignLayers: settings.images.foreignLayers,
    });
    const bridge = new BridgeNetwork({
      records,
      clock: systemClock,
      runOnHost,
      readHost: networkHostReader,
      options: {
        name: names.bridge,
        subnet: settings.network.subnet ?? names.subnet,
        tableName: names.table,
        ...(settings.network.mtu === undefined ? {} : { mtu: settings.network.mtu }),
        markerDir: files.networkMarkers,
      },
    });
    const { mode, cniBinDirs, cniConfigDir, cniTemplate } = settings.network;
    const cni = new CniNetwork({
      records,
      clock: systemClock,
      files: cniFiles,
      runTool: launcher.runTool.bind(launcher),
      runOnHost,
      configDir: cniConfigDir,
      binDirs: cniBinDirs,
      searchPath: pluginSearchPath(process.env['PATH']),
      ...(mode === 'cni' && cniTemplate !== undefined ? { template: cniTemplate } : {}),
      report,
    });
    // What commands hand over by file and a killed one left.
    await removeDirectory(files.transfers);
    const cdi = new CdiFiles(settings.cdi.specDirs);
    const containerUsage = new ContainerUsage({
      directory: files.containers,
      mountpoint: isOneDisk(files.images, files.containers) ? files.images : files.containers,
      clock: systemClock,
    });
    const engine = new PodEngine({
      records,
      clock: systemClock,
      drivers: new Map([[driver.name, driver]]),
      defaultHandler: driver.name,
      images: createImagePort(images),
      network: createNetworkPort({ mode, bridge, cni }),
      containerUsage: async () => containerUsage.measure(),
      layerUsage: async (container) => containerUsage.measureLayer(container),
      defaults: { ...specDefaults(host, settings.images.volumes, cdi), ...(await securityDefaults(host, launcher, report)) },
      version,
      report,
      readiness,
      info: async () => ({
        cdi: { specDirs: settings.cdi.specDirs, warnings: cdiWarnings(await cdi.read()) },
        config: settings,
        rootDirectory: location.rootDirectory,
        runDirectory: location.runDirectory,
        ownerPid: process.pid,
        launcherPid: launcher.pid,
        kernel: host.kernel.release,
        cgroups: host.cgroups.mode,
      }),
    });
    await engine.reconcile();
    return {
      engine,
      host,
      close: async () => {
        await engine.close();
        await driver.close();
        await images.close();
        records[Symbol.dispose]();
      },
    };
  } catch (error) {
    records[Symbol.dispose]();
    throw error;
  }
}
