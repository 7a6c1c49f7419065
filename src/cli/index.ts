/** The door for people: commands, tables, progress, `explain`, `doctor`. */
export type * from './dependencies.ts';
export { runCli } from './main.ts';
export { parseManifestText } from './manifest-file.ts';
export { buildProgram } from './program.ts';
export { createHostPorts } from './process.io.ts';
export { createTransfer } from './transfers.io.ts';
