/** The durable records of an engine as a port. The real one is sqlite in `system`. */

/**
 * Values by kind and id. Every call is synchronous and durable when it returns (against a crash of this process; see
 * the implementation for power cuts). Values survive as `encodeJson` keeps them. Only the owner of a state directory has one.
 */
export interface Records {
  put(kind: string, id: string, value: unknown): void;
  /** undefined where there is none. */
  get(kind: string, id: string): unknown;
  /** In the order of their ids. */
  list(kind: string): { readonly id: string; readonly value: unknown }[];
  /** An absent record is no error. */
  delete(kind: string, id: string): void;
  /** All or nothing; nested calls join the outer one. */
  transaction<T>(body: () => T): T;
}
