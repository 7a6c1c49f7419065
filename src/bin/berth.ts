/** The main of `berth`: wires the command line to this process and sets the exit status. */
import { readFileSync } from 'node:fs';
import { createHostPorts, runCli } from '#cli';
import { errorMessage } from '#core';
import { systemClock } from '#system';
import { explainBundle } from './bundle.ts';
import { runDaemon } from './daemon.ts';
import { runDoctor } from './run-doctor.ts';
import { programFiles } from './locations.ts';
import { openSession } from './session.ts';

// SAFETY: the program's own package.json has a version.
const { version } = JSON.parse(readFileSync(programFiles.packageJson, 'utf8')) as { version: string };
const report = (error: unknown): void => void process.stderr.write(`berth: ${errorMessage(error)}\n`);

process.exitCode = await runCli(process.argv.slice(2), {
  version,
  clock: systemClock,
  ...createHostPorts(),
  openEngine: async (location, { lasting }) => openSession({ location, version, lasting, report }),
  doctor: async (location) => runDoctor(location),
  explainBundle,
  startDaemon: async (options) => runDaemon(options, version),
});
