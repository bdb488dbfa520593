/** What the Batch queue needs of AWS's SDK, in one module that is loaded when it is first used; a bundle takes no more than this. */
export {
  BatchClient,
  DescribeJobQueuesCommand,
  DescribeJobsCommand,
  ListJobsCommand,
  SubmitJobCommand,
  TerminateJobCommand,
} from '@aws-sdk/client-batch';
