/** linux.memoryPolicy as a step, for the first process and for every exec. In: a decoded document. Out: steps. Pure. Source: config-linux.md "Memory policy", set_mempolicy(2). */
import { type SpecLinux, memoryPolicyFlags, memoryPolicyModes } from '#oci';
import { type Step } from '#plan';
import { bitMask } from './bit-mask.ts';

/** Nothing where the document says nothing. */
export function planMemoryPolicy({ memoryPolicy }: Pick<SpecLinux, 'memoryPolicy'>): readonly Step[] {
  if (memoryPolicy === undefined) return [];
  const flags = memoryPolicy.flags.reduce((bits, flag) => bits | memoryPolicyFlags[flag], 0);
  return [{ kind: 'setMemoryPolicy', mode: memoryPolicyModes[memoryPolicy.mode] | flags, nodes: bitMask(memoryPolicy.nodes), origin: '/linux/memoryPolicy' }];
}
