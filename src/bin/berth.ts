/** The main of `berth`: wires the command line to this process and sets the exit status. */
import { readFileSync } from 'node:fs';
import { createHostPorts, createTransfer, runCli } from '#cli';
import { errorMessage } from '#core';
import { findCredentials } from '#image';
import { systemClock } from '#system';
import { explainBundle } from './bundle.ts';
import { runDaemon } from './daemon.ts';
import { runDoctor } from './run-doctor.ts';
import { engineFiles, programFiles } from './locations.ts';
import { runTool } from './run-tool.ts';
import { openSession } from './session.ts';

// SAFETY: the program's own package.json has a version.
const { version } = JSON.parse(readFileSync(programFiles.packageJson, 'utf8')) as { version: string };
const report = (error: unknown): void => void process.stderr.write(`berth: ${errorMessage(error)}\n`);

process.exitCode = await runCli(process.argv.slice(2), {
  version,
  clock: systemClock,
  ...createHostPorts(),
  openEngine: async (location, { lasting }) => openSession({ location, version, lasting, report }),
  openTransfer: async (location) => createTransfer(engineFiles(location).transfers),
  findCredentials: async (name) =>
    findCredentials(name, { home: process.env['HOME'], xdgRuntimeDir: process.env['XDG_RUNTIME_DIR'], uid: process.geteuid?.() ?? 0, env: process.env, runTool }),
  doctor: async (location) => runDoctor(location),
  explainBundle,
  startDaemon: async (options) => runDaemon(options, version),
});
