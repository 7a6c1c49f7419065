/** Writes docs/cri-fields.md from tests/cri-fields.json. In: the table, the generated descriptors. Out: the document. */
import { writeFileSync } from 'node:fs';
import { describeTable } from '../tests/cri-fields/table.ts';
import { served } from '../tests/cri-fields/observe.ts';

writeFileSync(new URL('../docs/cri-fields.md', import.meta.url), describeTable([...served.values()]));
