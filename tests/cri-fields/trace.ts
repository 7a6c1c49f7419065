/**
 * Which fields of CRI messages the doors look at, and which ones they answer. In: messages and their descriptors. Out: names such as
 * `PodSandboxConfig.hostname`. Nothing here knows what a field means.
 */
import type { DescField, DescMessage, Message } from '@bufbuild/protobuf';
import { isFieldSet } from '@bufbuild/protobuf';
import { file_cri_v1 } from '#gen/cri-v1_pb.js';

/** `PodSandboxConfig.hostname`, as proto/cri-v1.proto spells it. */
export const nameOf = (message: DescMessage, field: DescField): string => `${message.name}.${field.name}`;

/** Every message below `root`, itself included, as far as `follow` says of the fields that lead there. */
export function reachable(roots: readonly DescMessage[], follow: (field: string) => boolean = () => true): ReadonlySet<DescMessage> {
  const found = new Set<DescMessage>();
  const visit = (message: DescMessage): void => {
    if (found.has(message)) return;
    found.add(message);
    for (const field of message.fields) if (field.message !== undefined && follow(nameOf(message, field))) visit(field.message);
  };
  for (const root of roots) visit(root);
  return found;
}

/** The message of that name. */
export function messageNamed(name: string): DescMessage | undefined {
  return file_cri_v1.messages.find((message) => message.name === name);
}

function childrenOf(message: Message, field: DescField): readonly Message[] {
  const value: unknown = Reflect.get(message, field.localName);
  if (field.message === undefined || value === undefined) return [];
  // SAFETY: a field of a message type holds messages: one, a list, or a map's values.
  if (field.fieldKind === 'list') return value as readonly Message[];
  // SAFETY: as above.
  if (field.fieldKind === 'map') return Object.values(value as Readonly<Record<string, Message>>);
  // SAFETY: as above.
  return [value as Message];
}

/** Names of all fields in the message and below it that have another value than their default. */
export function fieldsSet(desc: DescMessage, message: Message, found = new Set<string>()): Set<string> {
  for (const field of desc.fields) {
    if (!isFieldSet(message, field)) continue;
    found.add(nameOf(desc, field));
    if (field.message !== undefined) for (const child of childrenOf(message, field)) fieldsSet(field.message, child, found);
  }
  return found;
}

/** A copy that notes each field that is read of it or of a message below it. Lists and maps are plain copies. */
export function traceReads(desc: DescMessage, message: Message, reads: Set<string>): object {
  const copy = { $typeName: message.$typeName };
  for (const field of desc.fields) {
    const value: unknown = Reflect.get(message, field.localName);
    const child = field.message;
    const traced =
      child === undefined || value === undefined
        ? value
        : field.fieldKind === 'list'
          ? childrenOf(message, field).map((entry) => traceReads(child, entry, reads))
          : childrenOf(message, field).map((entry) => traceReads(child, entry, reads))[0];
    Object.defineProperty(copy, field.localName, {
      enumerable: true,
      get: () => {
        reads.add(nameOf(desc, field));
        return traced;
      },
    });
  }
  return copy;
}
