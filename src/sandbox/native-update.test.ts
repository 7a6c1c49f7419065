/** What an update answers where the kernel takes a value no more, over a shim that answers from memory. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { Plan } from '#plan';
import type { HostFacts } from '#system';
import { updateGroup } from './native-update.ts';

const cgroups: HostFacts['cgroups'] = {
  mode: 'v2',
  v1: [],
  unified: { mountpoint: '/sys/fs/cgroup', controllers: ['cpu'], canKill: true },
  cpusetCpus: '',
  cpusetMems: '',
  swapLimit: true,
  hugepageSizes: [],
};
const resources = { devices: [], cpu: { shares: 2n }, hugepageLimits: [], unified: {} };

/** Asks for shares and a score; the shim refuses whatever writes the file of that name. */
async function updateRefused(name: string, refusal: RuntimeError): Promise<void> {
  const shim = {
    execute: async ({ sections }: Plan) => {
      for (const { steps } of sections) for (const step of steps) if (step.kind === 'writeFile' && step.path.endsWith(`/${name}`)) throw refusal;
    },
  };
  // SAFETY: an update uses nothing else of the host.
  const host = { cgroups, capabilities: { own: 0n }, oomScoreAdj: 0 } as unknown as HostFacts;
  await updateGroup({ shim, host }, { placement: { path: '/no/such/group' }, resources, oomScore: { pid: 4_195_001, value: 5 } });
}

for (const [name, errno, meaning] of [
  ['oom_score_adj', 'ENOENT', 'it has ended, or this kernel has no such file'],
  ['oom_score_adj', 'ESRCH', 'it has ended'],
  ['cpu.weight', 'ENODEV', 'it has ended'],
  ['cgroup.subtree_control', 'EACCES', 'not within what the group above has'],
] as const) {
  test(`${errno} of ${name} is a state that takes no update, not the absence of the container`, async () => {
    await assert.rejects(updateRefused(name, new RuntimeError('notFound', `write ${name}: ${errno}`, { errno })), {
      code: 'failedPrecondition',
      message: `write ${name}: ${errno} (${meaning})`,
      errno,
    });
  });
}

test('an error that is none of the kernel stays as it is', async () => {
  await assert.rejects(updateRefused('cpu.weight', new RuntimeError('unavailable', 'the shim has ended')), { code: 'unavailable', message: 'the shim has ended' });
});
