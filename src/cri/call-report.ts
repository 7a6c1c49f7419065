/**
 * What can be said of a call once it has been answered. In: a decoded request. Out: the ids and names in it, for the log. Pure. Nothing
 * else of a request leaves here: environments, commands and credentials are not for a log.
 */

/** Ids and names of a request, under the keys that they have everywhere in the log. */
export interface CallIds {
  readonly podSandboxId?: string;
  readonly containerId?: string;
  readonly image?: string;
  readonly handler?: string;
  readonly k8sNamespace?: string;
  readonly podName?: string;
  readonly containerName?: string;
}

/** One answered call. */
export interface CallReport extends CallIds {
  /** `RuntimeService/StopContainer`. */
  readonly method: string;
  /** From the request to the end of the answer. */
  readonly durationMs: number;
  /** Absent where the call succeeded. */
  readonly error?: unknown;
}

/** A client may send whatever length it likes. */
const textLengthMax = 256;

const at = (value: unknown, key: string): unknown => (typeof value === 'object' && value !== null && Object.hasOwn(value, key) ? Reflect.get(value, key) : undefined);
const textAt = (value: unknown, key: string): string | undefined => {
  const text = at(value, key);
  return typeof text === 'string' && text !== '' ? text.slice(0, textLengthMax) : undefined;
};

/** What names the subject of a call. */
export function findIds(request: unknown): CallIds {
  const metadata = at(at(request, 'config'), 'metadata');
  const isContainer = at(request, 'sandboxConfig') !== undefined || textAt(request, 'podSandboxId') !== undefined;
  const found: { readonly [Key in keyof CallIds]: string | undefined } = {
    podSandboxId: textAt(request, 'podSandboxId'),
    containerId: textAt(request, 'containerId'),
    image: textAt(at(request, 'image'), 'image'),
    handler: textAt(request, 'runtimeHandler'),
    k8sNamespace: textAt(metadata, 'namespace'),
    podName: isContainer ? undefined : textAt(metadata, 'name'),
    containerName: isContainer ? textAt(metadata, 'name') : undefined,
  };
  return Object.fromEntries(Object.entries(found).filter(([, text]) => text !== undefined));
}
