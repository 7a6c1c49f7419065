/** Sockets and byte streams that several doors share. */
export * from './listen.io.ts';
