/** Plans: the step vocabulary, its binary encoding, its sentences. No I/O, no policy. */
export * from './bytes.ts';
export * from './describe.ts';
export * from './encoding.ts';
export * from './errno.ts';
export * from './vocabulary.ts';
export * from './layer.ts';
export * from './user-namespace.ts';
