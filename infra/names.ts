/**
 * Names that other stacks, the functions and people rely on. They are fixed, not exported from stack to stack: an export that is in use
 * could never be taken away, so a machine could not be removed from an install.
 */
const plain = (machine: string): string => machine.replaceAll('.', '-');

export const queueName = (install: string, machine: string): string => `${install}-${plain(machine)}`;
export const definitionName = (install: string, machine: string, tenant: string): string =>
  `${install}-${plain(machine)}-${tenant}`;
/** On everything that an install makes, and on its Batch jobs. */
export const installTag = 'cherryq:install';
