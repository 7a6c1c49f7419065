/** The main of `berth`: wires the command line to this process and sets the exit status. */
import { readFileSync } from 'node:fs';
import { type ConfigurationRequest, createHostPorts, createTransfer, runCli } from '#cli';
import { errorMessage } from '#core';
import { findCredentials } from '#image';
import { systemClock } from '#system';
import { explainBundle } from './bundle.ts';
import { checkCdi } from './cdi-files.ts';
import { type Configuration, checkConfiguration, describeConfiguration, describeSettings, loadConfiguration } from './configuration.ts';
import { runDoctor } from './run-doctor.ts';
import { engineFiles, programFiles } from './locations.ts';
import { runTool } from './run-tool.ts';
import { openSession } from './session.ts';
import type { Settings } from './settings.ts';

// SAFETY: the program's own package.json has a version.
const { version } = JSON.parse(readFileSync(programFiles.packageJson, 'utf8')) as { version: string };
const report = (error: unknown): void => void process.stderr.write(`berth: ${errorMessage(error)}\n`);

let request: ConfigurationRequest = {};
let loaded: Configuration | undefined;
/** Commands load it with their options before they open anything. */
const configuration = (): Configuration => (loaded ??= loadConfiguration(request, process.env));

/** For doctor, which tells by another check why they cannot be read. */
function networkSettings(): Settings['network'] | undefined {
  try {
    return configuration().settings.network;
  } catch {
    return undefined;
  }
}

process.exitCode = await runCli(process.argv.slice(2), {
  version,
  clock: systemClock,
  ...createHostPorts(),
  configuration: {
    load: (given) => {
      request = given;
      loaded = loadConfiguration(request, process.env);
      return describeConfiguration(loaded);
    },
    describe: describeSettings,
  },
  openEngine: async (location, { lasting }) => openSession({ location, settings: configuration().settings, version, lasting, report }),
  openTransfer: async (location) => createTransfer(engineFiles(location).transfers),
  findCredentials: async (name) =>
    findCredentials(name, { home: process.env['HOME'], xdgRuntimeDir: process.env['XDG_RUNTIME_DIR'], uid: process.geteuid?.() ?? 0, env: process.env, runTool }),
  doctor: async (location) => ({
    checks: [checkConfiguration(configuration), ...(await checkCdi(() => configuration().settings.cdi.specDirs)), ...(await runDoctor(location, networkSettings())).checks],
  }),
  explainBundle,
  startDaemon: async (options) => {
    // gRPC and the log are loaded by the daemon alone: they would take a quarter of the time of every other command.
    const { runDaemon } = await import('./daemon.ts');
    return runDaemon({ options, configuration: configuration(), reload: () => loadConfiguration(request, process.env), version });
  },
});
