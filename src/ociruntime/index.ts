/** The command line of the OCI runtime: runc's commands over src/runtime. */
export type * from './types.ts';
