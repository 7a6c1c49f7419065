/** `berth doctor`: the probes of doctor.ts, run by a launcher of their own so that a daemon is not disturbed. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import type { DoctorReport } from '#cli';
import { RuntimeError } from '#core';
import { readHostFacts, startLauncher } from '#system';
import { buildDoctorReport } from './doctor.ts';
import { type Location, hostNames, programFiles } from './locations.ts';
import { probeNetwork } from './probe-network.ts';
import type { Settings } from './settings.ts';

/** Probes in a scratch directory that is gone afterwards. Without settings, which may be unreadable, the built-in network is looked at. */
export async function runDoctor(location: Location, settings?: Settings['network']): Promise<DoctorReport> {
  const directory = await mkdtemp(`${tmpdir()}/berth-doctor-`);
  try {
    const result = await startLauncher({ executable: programFiles.shim, runDir: directory, lockFile: `${directory}/lock` });
    if (result.kind === 'locked') throw new RuntimeError('internal', `bug: ${directory} is locked by process ${result.pid}`);
    await using launcher = result.launcher;
    return await buildDoctorReport({
      facts: readHostFacts(),
      run: async (plan) => launcher.runOnce(plan),
      network: async () => probeNetwork(launcher, { names: hostNames(location), settings }),
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
