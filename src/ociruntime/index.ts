/** The command line of the OCI runtime: runc's commands over src/runtime. */
export { type DispatchOptions, dispatch } from './dispatch.ts';
export { greetFront, serveFront } from './front-connection.io.ts';
export { containerOperations } from './operations.ts';
export type * from './types.ts';
