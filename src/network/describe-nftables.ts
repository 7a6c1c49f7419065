/**
 * nftables messages in words. In: decoded messages. Out: one sentence each. Follows what every register holds, so that a rule
 * reads as conditions and an action; shows the bytes of whatever this project does not make.
 */
import { formatIpv4 } from './address.ts';
import { type DecodedMessage, decodeAttributes, listAttributes, textOf } from './netlink.ts';
import {
  addressTypeLocal,
  bitwiseAttribute,
  chainAttribute,
  compareAttribute,
  compareOperator,
  ctAttribute,
  ctDestinationNat,
  dataAttribute,
  dataType,
  elementAttribute,
  elementsAttribute,
  expressionAttribute,
  fibAttribute,
  hookAttribute,
  hookNumber,
  immediateAttribute,
  lookupAttribute,
  metaAttribute,
  metaKey,
  natAttribute,
  nft,
  packetField,
  payloadAttribute,
  ruleAttribute,
  setAttribute,
  tableAttribute,
  verdictAttribute,
  verdictCode,
} from './nftables.ts';

const headerLength = 4;
type Attributes = ReadonlyMap<number, Buffer>;

const number32 = (value: Buffer | undefined): number => (value?.length === 4 ? value.readInt32BE(0) : 0);
const addressAt = (value: Buffer, offset: number): string => formatIpv4(value.readUInt32BE(offset));
const protocolNames: Readonly<Record<number, string>> = { 6: 'tcp', 17: 'udp', 132: 'sctp' };

/** What a register holds: words for it, and how to print a value that it is compared with. */
interface Held {
  readonly words: string;
  readonly print: (value: Buffer) => string;
}

const hexOf = (value: Buffer): string => `0x${value.toString('hex')}`;
const plain = (words: string): Held => ({ words, print: hexOf });
const addressHeld = (words: string): Held => ({ words, print: (value) => `${[...value, 0, 0, 0].slice(0, 4).join('.')}` });

/** 32-bit register number of either numbering: 1 to 4 are four of them wide. */
const slotOf = (value: Buffer | undefined): number => {
  const number = number32(value);
  return number >= 8 ? number - 8 : (number - 1) * 4;
};

function payloadHeld(data: Attributes): Held {
  const [base, offset, length] = [payloadAttribute.base, payloadAttribute.offset, payloadAttribute.length].map((type) => number32(data.get(type)));
  const known = Object.entries(packetField).find(([, field]) => field.base === base && field.offset === offset && field.length === length)?.[0];
  switch (known) {
    case 'sourceAddress':
      return addressHeld('the source address');
    case 'destinationAddress':
      return addressHeld('the destination address');
    case 'destinationPort':
      return { words: 'the destination port', print: (value) => String(value.readUInt16BE(0)) };
    default:
      return plain(`${length} bytes at offset ${offset} of header ${base}`);
  }
}

function metaHeld(data: Attributes): Held {
  switch (number32(data.get(metaAttribute.key))) {
    case metaKey.inputInterface:
      return { words: 'the link it came by', print: textOf };
    case metaKey.outputInterface:
      return { words: 'the link it leaves by', print: textOf };
    case metaKey.protocol:
      return { words: 'the protocol', print: (value) => protocolNames[value.readUInt8(0)] ?? hexOf(value) };
    default:
      return plain(`meta ${number32(data.get(metaAttribute.key))}`);
  }
}

const valueIn = (data: Buffer | undefined): Buffer => (data === undefined ? undefined : decodeAttributes(data).get(dataAttribute.value)) ?? Buffer.alloc(0);

/** Conditions and the action of one rule. */
class RuleReader {
  readonly #registers = new Map<number, Held>();
  readonly #conditions: string[] = [];
  readonly #actions: string[] = [];

  #held(at: number): Held {
    return this.#registers.get(at) ?? plain(`register ${at}`);
  }

  #mask(data: Attributes): void {
    const at = slotOf(data.get(bitwiseAttribute.source));
    const [held, mask] = [this.#held(at), valueIn(data.get(bitwiseAttribute.mask))];
    const isStatus = held.words === 'the connection status' && mask.length === 4 && mask.readUInt32LE(0) === ctDestinationNat;
    this.#registers.set(
      slotOf(data.get(bitwiseAttribute.destination)),
      isStatus
        ? { words: 'its translated destination', print: (value) => (value.every((byte) => byte === 0) ? 'none' : hexOf(value)) }
        : { words: `${held.words} & ${held.print(mask)}`, print: held.print },
    );
  }

  #compare(data: Attributes): void {
    const held = this.#held(slotOf(data.get(compareAttribute.source)));
    const isEqual = number32(data.get(compareAttribute.operator)) === compareOperator.equal;
    this.#conditions.push(`${held.words} is ${isEqual ? '' : 'not '}${held.print(valueIn(data.get(compareAttribute.data)))}`);
  }

  #lookup(data: Attributes): void {
    const map = textOf(data.get(lookupAttribute.set));
    const at = slotOf(data.get(lookupAttribute.source));
    const key = [...this.#registers]
      .filter(([index]) => index >= at)
      .sort(([one], [other]) => one - other)
      .map(([, { words }]) => words);
    this.#conditions.push(`map ${map} has an entry for ${key.join(', ')}`);
    this.#registers.set(slotOf(data.get(lookupAttribute.destination)), plain('that entry'));
  }

  #verdict(data: Attributes): void {
    const verdict = decodeAttributes(decodeAttributes(data.get(immediateAttribute.data) ?? Buffer.alloc(0)).get(dataAttribute.verdict) ?? Buffer.alloc(0));
    const code = number32(verdict.get(verdictAttribute.code));
    this.#actions.push(code === verdictCode.drop ? 'drop it' : code === verdictCode.jump ? `go through chain ${textOf(verdict.get(verdictAttribute.chain))}` : `verdict ${code}`);
  }

  read(name: string, data: Attributes): void {
    const load = (destination: number, held: Held): void => void this.#registers.set(slotOf(data.get(destination)), held);
    switch (name) {
      case 'payload':
        load(payloadAttribute.destination, payloadHeld(data));
        return;
      case 'meta':
        load(metaAttribute.destination, metaHeld(data));
        return;
      case 'ct':
        load(ctAttribute.destination, plain('the connection status'));
        return;
      case 'fib':
        load(fibAttribute.destination, {
          words: 'its destination',
          print: (value) => (value.length === 4 && value.readUInt32LE(0) === addressTypeLocal ? 'an address of the host' : hexOf(value)),
        });
        return;
      case 'bitwise':
        this.#mask(data);
        return;
      case 'cmp':
        this.#compare(data);
        return;
      case 'lookup':
        this.#lookup(data);
        return;
      case 'immediate':
        this.#verdict(data);
        return;
      case 'masq':
        this.#actions.push('masquerade it');
        return;
      case 'nat':
        this.#actions.push(`translate its destination to ${this.#held(slotOf(data.get(natAttribute.address))).words}`);
        return;
      default:
        this.#actions.push(`apply ${name}`);
    }
  }

  get words(): string {
    return `${this.#conditions.length === 0 ? '' : `where ${this.#conditions.join(' and ')}: `}${this.#actions.join(', ')}`;
  }
}

function describeRule(attributes: Attributes): string {
  const reader = new RuleReader();
  for (const { value } of listAttributes(attributes.get(ruleAttribute.expressions) ?? Buffer.alloc(0))) {
    const expression = decodeAttributes(value);
    reader.read(textOf(expression.get(expressionAttribute.name)), decodeAttributes(expression.get(expressionAttribute.data) ?? Buffer.alloc(0)));
  }
  return `add a rule to chain ${textOf(attributes.get(ruleAttribute.chain))} ${reader.words}`;
}

const typeNames: ReadonlyMap<number, string> = new Map(Object.entries(dataType).map(([name, type]) => [type, name]));

function describeTypes(concatenated: number): string {
  const names: string[] = [];
  for (let rest = concatenated; rest > 0; rest = Math.floor(rest / 64)) names.unshift(typeNames.get(rest % 64) ?? String(rest % 64));
  return names.join(' . ');
}

/** Port keys: 8 bytes are protocol and port, 12 have the address in front. */
function describeKey(key: Buffer): string {
  if (key.length !== 8 && key.length !== 12) return hexOf(key);
  const start = key.length - 8;
  return `${start === 0 ? '' : `${addressAt(key, 0)}:`}${key.readUInt16BE(start + 4)}/${protocolNames[key.readUInt8(start)] ?? key.readUInt8(start)}`;
}

function describeElements(attributes: Attributes, verb: 'add' | 'remove'): string {
  const entries = listAttributes(attributes.get(elementsAttribute.elements) ?? Buffer.alloc(0)).map(({ value }) => {
    const element = decodeAttributes(value);
    const [key, data] = [valueIn(element.get(elementAttribute.key)), valueIn(element.get(elementAttribute.data))];
    return `${describeKey(key)}${data.length === 8 ? ` to ${addressAt(data, 0)}:${data.readUInt16BE(4)}` : ''}`;
  });
  return `${verb} ${entries.join(', ')} ${verb === 'add' ? 'in' : 'from'} map ${textOf(attributes.get(elementsAttribute.set))} of table ${textOf(attributes.get(elementsAttribute.table))}`;
}

function describeChain(attributes: Attributes): string {
  const hook = attributes.get(chainAttribute.hook);
  const name = textOf(attributes.get(chainAttribute.name));
  if (hook === undefined) return `create chain ${name} in table ${textOf(attributes.get(chainAttribute.table))}`;
  const details = decodeAttributes(hook);
  const number = number32(details.get(hookAttribute.number));
  const at = Object.entries(hookNumber).find(([, value]) => value === number)?.[0] ?? `hook ${number}`;
  return `create ${textOf(attributes.get(chainAttribute.type))} chain ${name} in table ${textOf(attributes.get(chainAttribute.table))} at ${at}, priority ${number32(details.get(hookAttribute.priority))}`;
}

/** One nftables message in words; undefined for a batch's frame and for a message that this project does not make. */
export function describeNftablesMessage({ type, body }: DecodedMessage): string | undefined {
  if (body.length < headerLength || type === nft.batchBegin || type === nft.batchEnd) return undefined;
  const attributes = decodeAttributes(body.subarray(headerLength));
  switch (type) {
    case nft.newTable:
      return `create table ${textOf(attributes.get(tableAttribute.name))}`;
    case nft.deleteTable:
      return `remove table ${textOf(attributes.get(tableAttribute.name))} with all it holds`;
    case nft.newChain:
      return describeChain(attributes);
    case nft.newSet:
      return `create map ${textOf(attributes.get(setAttribute.name))} from ${describeTypes(number32(attributes.get(setAttribute.keyType)))} to ${describeTypes(number32(attributes.get(setAttribute.dataType)))}`;
    case nft.newRule:
      return describeRule(attributes);
    case nft.newElement:
      return describeElements(attributes, 'add');
    case nft.deleteElement:
      return describeElements(attributes, 'remove');
    default:
      return undefined;
  }
}
