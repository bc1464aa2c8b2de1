import type { components, operations, paths } from "./api";

type Schemas = components["schemas"];

const job: Schemas["NewJob"] = { task_type: "llm_chat", model_profile: "practice", input: { user: "Hello" } };
const batch: Schemas["NewBatch"] = { defaults: { owner_service: "beeline" }, jobs: [{ ...job, priority: "low" }] };
const filters: paths["/api/v1/jobs"]["get"]["parameters"]["query"] = { status: ["failed"], labels: { "label.channel": "news" } };

// A closed set is closed: a status that this does not know would not compile.
function told(status: Schemas["JobStatus"]): string {
  switch (status) {
    case "pending": case "running": return "wait";
    case "completed": return "read";
    case "failed": case "cancelled": return "look";
  }
}

type Claimed = operations["claim_jobs"]["responses"]["200"]["content"]["application/json"];
function token(claimed: Claimed): string | undefined {
  return claimed.jobs[0]?.lease_token;
}

// @ts-expect-error  a job needs its input
const wrong: Schemas["NewJob"] = { task_type: "llm_chat", model_profile: "practice" };

export { job, batch, filters, told, token, wrong };
