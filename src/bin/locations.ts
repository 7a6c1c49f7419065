/** Where things lie: the checkout or installation, and the files of one engine. Pure. */
import { fileURLToPath } from 'node:url';
import { createHash } from 'node:crypto';

/** The directory that holds package.json, `native/` and `dist/`; this file lies two levels below it. */
const home = fileURLToPath(new URL('../..', import.meta.url));

/** Files that belong to the program. */
export const programFiles = { shim: `${home}native/build/berth-shim`, packageJson: `${home}package.json`, imageWorker: new URL('../image/worker.io.ts', import.meta.url) } as const;

/** Directories of one engine, as the command line names them. */
export interface Location {
  readonly rootDirectory: string;
  readonly runDirectory: string;
}

/** Every path that an engine uses below its two directories. */
export function engineFiles({ rootDirectory, runDirectory }: Location) {
  return {
    database: `${rootDirectory}/state.db`,
    lock: `${rootDirectory}/owner.lock`,
    images: `${rootDirectory}/images`,
    containers: `${rootDirectory}/containers`,
    trash: `${rootDirectory}/trash`,
    transfers: `${rootDirectory}/transfers`,
    skeleton: `${rootDirectory}/skeleton`,
    engineSocket: `${runDirectory}/engine.sock`,
    ociSocket: `${runDirectory}/oci.sock`,
    pods: `${runDirectory}/pods`,
    rootfs: `${runDirectory}/rootfs`,
    networkMarkers: `${runDirectory}/network`,
  } as const;
}

/**
 * Names of what an engine makes outside its directories. The one in /run/berth has the plain names; another one on the same host
 * gets names and a subnet of its own from its run directory, so that two engines do not meet.
 */
export function hostNames({ runDirectory }: Location): { readonly bridge: string; readonly subnet: string; readonly table: string; readonly cgroup: string } {
  if (runDirectory === '/run/berth') return { bridge: 'berth0', subnet: '10.88.0.0/16', table: 'berth', cgroup: '/berth' };
  const digest = createHash('sha256').update(runDirectory).digest();
  const suffix = digest.toString('hex').slice(0, 8);
  // 10.89 to 10.216, each cut into sixteen networks of 4094 pods.
  return {
    bridge: `berth${suffix}`,
    subnet: `10.${89 + (digest.readUInt8(4) & 127)}.${(digest.readUInt8(5) & 15) * 16}.0/20`,
    table: `berth_${suffix}`,
    cgroup: `/berth-${suffix}`,
  };
}
